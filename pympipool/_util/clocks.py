"""Time for deadlines of others, which must not pass while this process cannot look after them."""

from __future__ import annotations

from time import monotonic

CHECK_INTERVAL_S = 1.0
"""Seconds between two checks of a deadline, at most."""

LONGEST_WAIT_S = 86_400.0
"""Longest wait (s) for descriptors. epoll and poll refuse waits of more than 24 days; waking up once a day costs nothing."""

_STEP_MAX_S = 2 * CHECK_INTERVAL_S
"""Most seconds that count between two checks. More have passed if this process was stopped, or had no processor."""


class RunningClock:
    """A stopwatch that stands still while this process is stopped, by Ctrl-Z for example, or its threads have no turn.

    `elapsed` must be called every `CHECK_INTERVAL_S`. The system has no clock of this kind.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin again at 0."""
        self._elapsed_s = 0.0
        self._checked_s = monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the start in which this process ran."""
        now_s = monotonic()
        self._elapsed_s += min(now_s - self._checked_s, _STEP_MAX_S)
        self._checked_s = now_s
        return self._elapsed_s
