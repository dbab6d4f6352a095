"""Measurements of what others on the same machine can only make worse."""

from collections.abc import Callable


def best(measure: Callable[[], float], limit: float, tries: int = 8) -> float:
    """The least of some measurements; the first one below the limit is enough."""
    least = measure()
    for _ in range(tries - 1):
        if least < limit:
            break
        least = min(least, measure())
    return least
