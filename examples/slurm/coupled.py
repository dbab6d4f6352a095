"""Pass the future of one call as an argument of the next call, which has resources of its own."""

from pympipool import Executor


def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


with Executor(max_cores=2, backend="slurm") as exe:
    future_1 = exe.submit(calc_function, parameter_a=1, parameter_b=2)
    future_2 = exe.submit(calc_function, parameter_a=1, parameter_b=future_1, resource_dict={"threads_per_core": 2})
    print(future_2.result())
