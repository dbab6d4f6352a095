"""Run a function with MPI on two ranks, and a serial function, each with the resources it needs."""

from pympipool import Executor


def calc(i):
    from mpi4py import MPI

    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank


def add_up(results):
    return sum(i for i, _, _ in results)


with Executor(max_cores=2, backend="flux") as exe:
    ranks = exe.submit(calc, 3, resource_dict={"cores": 2})
    total = exe.submit(add_up, ranks)  # waits for the result of the first
    print(ranks.result())
    print(total.result())
