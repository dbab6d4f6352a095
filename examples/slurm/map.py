"""Many short calls on workers that start once, on all cores of the job and all of its nodes."""

import socket

from pympipool import Executor


def calc(values):
    return sum(values), socket.gethostname()


with Executor(backend="slurm", block_allocation=True) as exe:  # as many workers as the job has cores
    results = list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]]))
    print([total for total, _ in results])
    print("on", exe.info["max_workers"], "workers")
