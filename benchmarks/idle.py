"""CPU time of this process and its children while they are idle, and the load of the whole machine."""

from __future__ import annotations

import time
from types import ModuleType

BUSY_SHARE = 0.2
"""Share of all cores above which a machine counts as busy."""


def psutil() -> ModuleType:
    """Return the module psutil.

    Raises:
        ModuleNotFoundError: psutil is not installed.
    """
    try:
        import psutil as module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("psutil measures the CPU time: pip install psutil") from error
    return module


def cores_used(seconds: float) -> float:
    """Return the CPU time per second of this process and all its children."""
    time.sleep(0.2)  # earlier requests finish meanwhile
    master = psutil().Process()
    processes = [master, *master.children(recursive=True)]

    def used_s() -> float:
        return float(sum(times.user + times.system for times in (process.cpu_times() for process in processes)))

    before_s, start = used_s(), time.perf_counter()
    time.sleep(seconds)
    return (used_s() - before_s) / (time.perf_counter() - start)


def busy_share(seconds: float = 0.5) -> float:
    """Return the share of all cores that any process uses while this process sleeps: 0 to 1."""
    return float(psutil().cpu_percent(interval=seconds)) / 100
