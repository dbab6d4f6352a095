"""Run calls on all hosts of a job of PBS, LSF or Grid Engine, which is recognized by its environment."""

from pympipool import Executor


def calc(values):
    return sum(values)


def ranks(number):
    from mpi4py import MPI

    return number, MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank


with Executor() as exe:
    print("backend", exe.info["backend"], "with", exe.info["max_workers"], "cores")
    print(list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]])))
    print(exe.submit(ranks, 3, resource_dict={"cores": 2}).result())
