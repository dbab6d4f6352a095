"""Run calls on the workstations of a group: python workstations.py hosta hostb:8

Each host is named with the number of its cores to use, or all of them are used. Without names this machine is used.
"""

import socket
import sys

from pympipool import Executor


def calc(values):
    return sum(values), socket.gethostname()


with Executor(hosts=sys.argv[1:] or ["localhost:2"], block_allocation=True) as exe:
    results = list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]]))
    print([total for total, _ in results])
    print("on", exe.info["max_workers"], "workers")
