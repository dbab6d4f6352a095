"""Run many short calls on long-lived workers, on all cores and all nodes of the job."""

import socket

from pympipool import Executor


def calc(values):
    return sum(values), socket.gethostname()


with Executor(backend="slurm", block_allocation=True) as exe:  # as many workers as the job has cores
    results = list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]]))
    print([total for total, _ in results])
    print("on", exe.info["max_workers"], "workers")
