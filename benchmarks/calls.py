"""Functions that the workers run. They are in a module, so that the pickler of every peer can import them."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any


def noop(value: Any) -> Any:
    return value


def spin(seconds: float) -> float:
    """Compute for so many seconds and return the time spent in this function."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass
    return time.perf_counter() - start


def sleep(seconds: float) -> float:
    """Sleep for so many seconds and return the time spent in this function."""
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def sleep_and_thread(seconds: float) -> int:
    """Return the system's id of the thread that runs this. The sleep lets other workers take calls too."""
    time.sleep(seconds)
    return threading.get_native_id()


def max_of_row(row: int, array: Any) -> float:
    return float(array[row].max())


def max_of_shared_row(array: Any, row: int) -> float:
    """Do the same for mpire, which passes the shared objects first."""
    return max_of_row(row, array)


def noop_with_shared(_array: Any, value: Any) -> Any:
    return value


_kept: dict[str, Any] = {}


def keep(array: Any) -> None:
    """Keep an array in this process: an initializer."""
    _kept["array"] = array


def max_of_kept_row(row: int) -> float:
    return max_of_row(row, _kept["array"])


def sum_and_memory(array: Any) -> tuple[float, float]:
    """Return the sum of an array, and the bytes of memory that this process has for itself, copied pages included: Linux."""
    total = float(array.sum())
    with open("/proc/self/smaps_rollup") as rollup:
        kilobytes = [int(words[1]) for words in map(str.split, rollup) if words[0] == "Anonymous:"]
    return total, 1024.0 * sum(kilobytes)


def processor_time_s() -> float:
    """Return the processor time that this process has used, of all its threads."""
    return time.process_time()


def increment(value: int) -> int:
    return value + 1


def sum_of(*values: int) -> int:
    return sum(values)


def new_row(number: int, length: int) -> Any:
    import numpy as np

    return np.full(length, float(number))


def write_row(row: Any, number: int) -> None:
    row[:] = number


def writable(array: Any) -> Any:
    """Return the array itself, or the copy that a user needs if the array arrived read-only."""
    return array if array.flags.writeable else array.copy()


def increment_first(array: Any) -> Any:
    array = writable(array)
    array[0] += 1
    return array


def call_of_script(case: str) -> tuple[Any, ...]:
    """Return a function of the script (see `script.py`) and its arguments."""
    script: Any = sys.modules["__main__"]
    point = script.Point()
    calls: dict[str, tuple[Any, ...]] = {
        "instance": (script.x_of, point),
        "bound method": (point.norm,),
        "result": (script.point_at, 1.5),
        "method with such a result": (point.moved, 1.5),
    }
    return calls[case]
