"""What the workers are asked to run. Importable, so that every peer's pickler finds it."""

from __future__ import annotations

import os
import time
from typing import Any


def noop(value: Any) -> Any:
    return value


def spin(seconds: float) -> float:
    """Computes for so long; returns the time that was spent here."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass
    return time.perf_counter() - start


def nap(seconds: float) -> float:
    """Sleeps for so long; returns the time that was spent here."""
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def who(seconds: float) -> int:
    """The process that this runs in; busy for a moment, so that other workers get their share."""
    time.sleep(seconds)
    return os.getpid()


def increment(value: int) -> int:
    return value + 1


def total(*values: int) -> int:
    return sum(values)


def writable(array: Any) -> Any:
    """The array, or what a user has to make of it where it arrived read-only."""
    return array if array.flags.writeable else array.copy()


def change(array: Any) -> Any:
    array = writable(array)
    array[0] += 1
    return array
