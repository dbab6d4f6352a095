"""Processor time: of this process and its children while they have nothing to do, and of everybody else."""

from __future__ import annotations

import time
from types import ModuleType

BUSY_SHARE = 0.2
"""Of all cores: a machine that others use more than this is busy."""


def psutil() -> ModuleType:
    """The module.

    Raises:
        ModuleNotFoundError: psutil is not installed.
    """
    try:
        import psutil as module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("psutil counts the processor time: pip install psutil") from error
    return module


def cores_used(seconds: float) -> float:
    """Processor time per second, of this process and all its children."""
    time.sleep(0.2)  # what was asked for before is done
    master = psutil().Process()
    family = [master, *master.children(recursive=True)]

    def used_s() -> float:
        return float(sum(times.user + times.system for times in (process.cpu_times() for process in family)))

    before_s, start = used_s(), time.perf_counter()
    time.sleep(seconds)
    return (used_s() - before_s) / (time.perf_counter() - start)


def busy_share(seconds: float = 0.5) -> float:
    """The share of all cores that is in use, by whomever, while this process sleeps: 0 to 1."""
    return float(psutil().cpu_percent(interval=seconds)) / 100
