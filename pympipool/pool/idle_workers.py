"""Which workers of a pool have had no call for so long that they should end."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKS_PER_TIMEOUT = 4
"""A worker ends after the timeout, and at most this part of it later."""

INTERVAL_MIN_S = 0.01
"""Shortest interval between two checks."""


class IdleWorkers:
    """Notes since when workers are idle.

    Args:
        timeout_s: Time without a call after which a worker should end.

    Attributes:
        interval_s: Time between two calls of `expired`.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.interval_s = max(timeout_s / CHECKS_PER_TIMEOUT, INTERVAL_MIN_S)
        self._idle: dict[int, tuple[int, float]] = {}  # calls that have ended on it, and since when it has none

    def expired(self, load: Mapping[int, tuple[int, int]]) -> list[int]:
        """Return the numbers of the workers that have been idle for too long.

        Args:
            load: Of each worker the calls in flight, and those that have ended: `Dispatcher.load_of_workers`.
        """
        now_s = monotonic()
        before, self._idle = self._idle, {}
        for number, (in_flight, ended) in load.items():
            if in_flight == 0:
                known = before.get(number)
                self._idle[number] = known if known is not None and known[0] == ended else (ended, now_s)
        return [number for number, (_, since_s) in self._idle.items() if now_s - since_s >= self._timeout_s]
