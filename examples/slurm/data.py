"""Load data once in each worker, for all calls that it serves."""

from pympipool import Executor


def calc(i, j, k):
    return i + j + k


def init_function():
    return {"j": 4, "k": 3, "l": 2}


with Executor(max_cores=1, init_function=init_function, backend="slurm", block_allocation=True) as exe:
    future = exe.submit(calc, 2, j=5)
    print(future.result())
