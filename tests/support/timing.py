"""Measurements of what others on the same machine can only make worse, and calls that they can make late."""

from collections.abc import Callable
from typing import TypeVar

import psutil
import pytest

from support.processes import cores_used

BUSY_PERCENT = 20
"""Of all cores: a machine that others use more than this is busy."""

T = TypeVar("T")


def best(measure: Callable[[], float], limit: float, tries: int = 8) -> float:
    """The least of some measurements; the first one below the limit is enough."""
    least = measure()
    for _ in range(tries - 1):
        if least < limit:
            break
        least = min(least, measure())
    return least


def quickest(take_s: Callable[[], float], limit_s: float, tries: int = 8) -> float:
    """As `best`, for how long something takes; where others use the machine all the time, a limit that is missed proves nothing."""
    least_s = best(take_s, limit_s, tries)
    if least_s >= limit_s and (busy := used_by_others()) > BUSY_PERCENT:
        pytest.skip(f"{least_s:.2g} s instead of {limit_s:g}, but others use {busy:.0f} % of the machine: run it alone")
    return least_s


def used_by_others() -> float:
    """Percent of all cores that neither this process nor its descendants use: what spins there in vain is no excuse."""
    used: list[float] = []
    ours = cores_used(lambda: used.append(psutil.cpu_percent(interval=1.0)))
    return used[0] - 100 * ours / (psutil.cpu_count() or 1)


def in_time(attempt: Callable[[], T], tries: int = 8) -> T:
    """The value of the first attempt that no time limit ends: for short calls where `run_time_max` is short, too."""
    for _ in range(tries - 1):
        try:
            return attempt()
        except TimeoutError:
            continue
    return attempt()
