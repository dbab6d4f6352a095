"""Numbers that the guardian and the master share: memory of both, so that neither has to wait for the other.

    master, each of its threads ── progress ──> board <── shortage, suspended ── guardian

Times are those of `time.monotonic`, which all processes of a machine share. Writing a number needs no descriptor, no
memory and no lock, so it works during a shortage and in a thread that an interrupt hits anywhere.
"""

from __future__ import annotations

import mmap
import os
import time

THREADS = ("driver", "block", "call", "mpi")
"""Threads of the master that report progress."""

GUARDIAN, MASTER = 0, 1
"""Who makes a shortage. Each has a number of its own: the time at which its last shortage ended, or infinity."""

_BEGIN = 2
_FIRST_THREAD = 3
GRACE_S = 2.0
"""Seconds after a shortage in which its effects may still be seen."""


class Board:
    """The shared numbers.

    Args:
        descriptor: Of a memory file; see `create`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, mmap.PAGESIZE)).cast("d")

    @classmethod
    def create(cls) -> Board:
        """Return a new board; its descriptor is inherited on request only."""
        descriptor = os.memfd_create("chaos board")
        os.ftruncate(descriptor, mmap.PAGESIZE)
        board = cls(descriptor)
        board._numbers[GUARDIAN] = board._numbers[MASTER] = float("-inf")
        return board

    # ---- the begin: blows come after it only ----

    def begin(self) -> None:
        """Note that the master is ready for blows."""
        self._numbers[_BEGIN] = time.monotonic()

    @property
    def begin_s(self) -> float:
        """The time at which the master was ready; 0 before."""
        return self._numbers[_BEGIN]

    # ---- progress of the master's threads; 0 for a thread that does not run ----

    def step(self, thread: str) -> None:
        """Note that a thread makes progress."""
        self._numbers[_FIRST_THREAD + THREADS.index(thread)] = time.monotonic()

    def end(self, thread: str) -> None:
        """Note that a thread has ended."""
        self._numbers[_FIRST_THREAD + THREADS.index(thread)] = 0.0

    def longest_pause(self) -> tuple[str, float]:
        """Return the thread that has made no progress for the longest time, and that time in seconds."""
        now_s = time.monotonic()
        pauses = {thread: now_s - self._numbers[_FIRST_THREAD + i] for i, thread in enumerate(THREADS)}
        running = {thread: pause for thread, pause in pauses.items() if pause < now_s}
        return max(running.items(), key=lambda item: item[1], default=("", 0.0))

    def forgive_pauses(self) -> None:
        """Let the pauses of all threads begin now: the script itself was suspended."""
        for i, thread in enumerate(THREADS):
            if self._numbers[_FIRST_THREAD + i]:
                self.step(thread)

    # ---- shortages ----

    def begin_shortage(self, whose: int) -> None:
        """Note that something is short from now on; by GUARDIAN or MASTER."""
        self._numbers[whose] = float("inf")

    def end_shortage(self, whose: int) -> None:
        """Note that nothing is short any more."""
        if self._numbers[whose] == float("inf"):
            self._numbers[whose] = time.monotonic()

    def was_short_since(self, begin_s: float) -> bool:
        """Return True if there was a shortage at any time since then."""
        return max(self._numbers[GUARDIAN], self._numbers[MASTER]) + GRACE_S >= begin_s
