"""Functions that workers run for `pympipool bench` and `pympipool check`.

They are importable, so they travel by name. They lie in this room because a fresh worker has imported its package
already: importing them costs it next to nothing.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from pympipool._util.platform import SIGKILL

STEPS = 1_000_000
"""Argument of `count_down` that takes about 20 ms on a machine of 2024."""


# ---- to measure ----


def noop(value: Any = None) -> Any:
    """Return the value: the shortest call."""
    return value


def spin(seconds: float) -> float:
    """Compute for a given time. Return the time that was spent here, in s."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass
    return time.perf_counter() - start


def count_down(steps: int) -> None:
    """Do a given amount of work, however long it takes."""
    while steps:
        steps -= 1


# ---- to see where calls run, and with what ----


def host_and_pid(delay_s: float = 0.0) -> tuple[str, int]:
    """Return host and process id of the worker, after a delay in which the other calls must go to other workers."""
    if delay_s:
        time.sleep(delay_s)
    return socket.gethostname(), os.getpid()


def rank_and_host() -> tuple[int, int, int, str]:
    """Return the rank, the number of ranks, the sum of 1, 2, ... over the ranks (by an allreduce), and the host."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.rank, world.size, world.allreduce(world.rank + 1), socket.gethostname()


def visible_gpus() -> str:
    """Return the names of the GPUs that the worker's environment makes visible, separated by commas."""
    from pympipool.resources import available_devices

    return ",".join(available_devices().names)


# ---- to try out what is promised ----


def reverse(data: bytes) -> bytes:
    """Return the data in reverse order."""
    return data[::-1]


def add_one(array: Any) -> Any:
    """Add 1 to an array in place, which needs a writable one."""
    array += 1
    return array


def initialize() -> dict[str, int]:
    """Return values for parameters, as an init_function does."""
    return {"loaded": 40, "unused": 0}


def add_loaded(given: int, loaded: int) -> int:
    """Add a value from init_function to an argument."""
    return given + loaded


def raise_lookup_error(message: str) -> None:
    """Raise LookupError."""
    raise LookupError(message)


def kill_worker() -> None:
    """Kill the worker, as a crash or the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), SIGKILL)


def spin_forever() -> None:
    """Use the CPU until the worker is killed."""
    while True:
        pass
