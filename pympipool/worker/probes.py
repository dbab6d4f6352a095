"""Functions that workers run for `pympipool bench` and `pympipool check`.

They are importable, so they travel by name. They are in this room because importing it costs a fresh worker next to nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

STEPS = 1_000_000
"""Of `count_down`: about 20 ms on a machine of 2024."""


def noop(value: Any) -> Any:
    """The value."""
    return value


def spin(seconds: float) -> float:
    """Computes for so long; returns the time that was spent here, in s."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass
    return time.perf_counter() - start


def count_down(steps: int) -> None:
    """So much work, whatever time it takes."""
    while steps:
        steps -= 1


def who(seconds: float) -> tuple[str, int]:
    """Host and process that this runs in; busy for a moment, so that other workers get their share."""
    time.sleep(seconds)
    return os.uname().nodename, os.getpid()


def where() -> tuple[str, int]:
    """Host and process id of the worker."""
    return socket.gethostname(), os.getpid()


def where_after(seconds: float) -> tuple[str, int]:
    """The same, after a while in which no other call can run there."""
    time.sleep(seconds)
    return where()


def nothing() -> None:
    """The shortest call."""


def fail(message: str) -> None:
    """Raises."""
    raise LookupError(message)


def turn(data: bytes) -> bytes:
    """The data, the other way round."""
    return data[::-1]


def add_one(array: Any) -> Any:
    """Changes an array in place, which needs one that may be written."""
    array += 1
    return array


def preset(given: int, loaded: int) -> int:
    """A call one of whose arguments comes from init_function."""
    return given + loaded


def load() -> dict[str, int]:
    """An init_function."""
    return {"loaded": 40, "unused": 0}


def ranks() -> tuple[int, int, int, str]:
    """Rank, number of ranks, the sum of 1, 2, ... over them, and the host."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.rank, world.size, world.allreduce(world.rank + 1), socket.gethostname()


def die() -> None:
    """Ends the worker as a crash would, or the system that has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def never_end() -> None:
    """Uses its processor until it is ended."""
    while True:
        pass


def visible_gpus() -> str:
    """What the variables say that the worker sees."""
    from pympipool.resources import available_devices

    return ",".join(available_devices().names)
