"""Measurements of what others on the same machine can only make worse, and calls that they can make late."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def best(measure: Callable[[], float], limit: float, tries: int = 8) -> float:
    """The least of some measurements; the first one below the limit is enough."""
    least = measure()
    for _ in range(tries - 1):
        if least < limit:
            break
        least = min(least, measure())
    return least


def in_time(attempt: Callable[[], T], tries: int = 8) -> T:
    """The value of the first attempt that no time limit ends: for short calls where `run_time_max` is short, too."""
    for _ in range(tries - 1):
        try:
            return attempt()
        except TimeoutError:
            continue
    return attempt()
