"""Shortages: the system has no descriptors, processes, threads or memory for a worker now, and may have some later.

A worker that does not start for such a reason says nothing about the executor. So the pools try again, after pauses that
grow, for as long as the shortage lasts. Calls that still wait after `SHORTAGE_TIMEOUT_S` fail with its name; the pools go on
trying, and serve calls again as soon as there is room. An outage of a scheduler is such a reason too, but may last longer:
`OUTAGE_TIMEOUT_S`.
"""

from __future__ import annotations

import errno
import os
from time import monotonic
from typing import TYPE_CHECKING

from pympipool._util.clocks import RunningClock
from pympipool._util.devices import IN_USE
from pympipool.errors import WorkerStartError
from pympipool.pool.reported_error import ReportedError

if TYPE_CHECKING:
    from pympipool.pool.reported_error import Failure

SHORTAGE_TIMEOUT_S = 60.0
"""Time for which calls wait for a shortage to pass while no worker of their executor runs."""

OUTAGE_TIMEOUT_S = 300.0
"""The same for a scheduler that does not answer, or that comes back from a restart."""

PAUSE_MIN_S = 0.05
"""Pause before the second attempt; doubles with each further one."""

PAUSE_MAX_S = 1.0
"""Longest pause between two attempts."""

FORGET_S = 60.0
"""Time without a failed attempt after which the next one is the beginning of another shortage. An attempt may take long: srun
waits for the controller of SLURM for 10 s or more."""

_DESCRIPTORS = "the system has too few file descriptors (ulimit -n)"
_PROCESSES = "the system has too few processes or threads (ulimit -u)"
_MEMORY = "the system has too little memory"

NAMES = {
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ETOOMANYREFS: _DESCRIPTORS,
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.ENOSPC: "the system has too little shared memory (/dev/shm)",
}
"""What there is too little of, as a sentence, by the error of a system call that a start needs."""

_TEXTS = {
    **{os.strerror(number): name for number, name in NAMES.items()},
    "can't start new thread": _PROCESSES,
    "MemoryError": _MEMORY,
    IN_USE: IN_USE,
}
"""The same by texts in the messages of launchers, and of interpreters that end while they start."""

_NO_SPACE = os.strerror(errno.ENOSPC)

_LINES = 5
"""Last lines of stderr that are searched for a text."""

_CAUSES_MAX = 10
"""Causes of an error that are followed at most: user code could close the chain to a circle."""


_REPORTED_TYPES = frozenset({"OSError", "BlockingIOError", "ImportError", "MemoryError", "RuntimeError"})
"""Types of an exception that a worker has reported, and that may tell of a shortage by its message. The supervisor does not
unpickle the exception, so a subclass of the user's is none of them."""


def shortage_of(error: Failure) -> str | None:
    """Return what there was too little of when a worker did not start; None if it did not start for another reason."""
    if isinstance(error, ReportedError):
        if error.function and _NO_SPACE in error.message and "/dev/shm" not in error.message:
            return None  # the user's function has filled another file system
        text = f"{error.type_name}: {error.message}" if error.type_name in _REPORTED_TYPES else ""
        return next((name for words, name in _TEXTS.items() if words in text), None)
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if isinstance(cause, OutageError):
            return cause.outage
        if isinstance(cause, MemoryError):
            return _MEMORY
        if isinstance(cause, OSError) and cause.errno in NAMES:
            return NAMES[cause.errno]
        texts = (cause.reason, *cause.last_stderr[-_LINES:]) if isinstance(cause, WorkerStartError) else ()
        if isinstance(cause, RuntimeError):
            texts = tuple(map(str, cause.args))
        for text, name in _TEXTS.items():
            if any(text in line for line in texts):
                return name
        cause = cause and (cause.__cause__ or cause.__context__)
    return None


class OutageError(WorkerStartError):
    """A worker did not start because its scheduler does not answer. Calls never get it: see `shortage_error`.

    Attributes:
        outage: What does not answer, as a sentence.
    """

    outage = ""


class Shortage:
    """The present shortage, if there is one. Only for the supervisor's thread."""

    def __init__(self) -> None:
        self.passed()

    def passed(self) -> None:
        """Take note that a worker has started: there is room again."""
        self._clock: RunningClock | None = None
        self._pause_s = PAUSE_MIN_S
        self._last_s = self._begin_s = 0.0
        self._is_outage = False

    def attempt_failed(self, *, others_run: bool, is_outage: bool = False) -> float:
        """Take note of a failed attempt, and return the pause before the next one in seconds.

        Args:
            others_run: Workers of the executor run, and may make room when they end. So the time limit begins anew.
            is_outage: It failed because a scheduler does not answer.
        """
        if self._clock is None or others_run or monotonic() - self._last_s > FORGET_S:
            self._clock, self._begin_s = RunningClock(), monotonic()
        self._last_s = monotonic()
        self._is_outage = is_outage
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s

    @property
    def lasts_too_long(self) -> bool:
        """True if calls need not wait any longer."""
        if self._is_outage:  # attempts are too rare for a clock that stands still between them
            return monotonic() - self._begin_s > OUTAGE_TIMEOUT_S
        return self._clock is not None and self._clock.elapsed() > SHORTAGE_TIMEOUT_S


def shortage_error(name: str, error: Failure) -> WorkerStartError:
    """Return the error of a call for which no worker was started because of a shortage.

    It unpickles what a worker has reported, so the thread calls it that reads the error.

    Args:
        name: What there is too little of, as a sentence.
        error: The error of the last attempt.
    """
    if isinstance(error, OutageError):
        return WorkerStartError(
            f"no worker could be started for {OUTAGE_TIMEOUT_S:g} s, because {name}: {error.reason}. Later calls are tried"
            " again",
            last_stderr=error.last_stderr,
        )
    cause = None
    if isinstance(error, ReportedError):
        reason, cause = f"{error.type_name}: {error.message}", error.load()
    else:
        reason = error.reason if isinstance(error, WorkerStartError) else str(error)
    last_stderr = error.last_stderr if isinstance(error, WorkerStartError) else ()
    failure = WorkerStartError(
        f"no worker could be started for {SHORTAGE_TIMEOUT_S:g} s, because {name}: {reason}. Later calls are"
        " tried again: free some, raise the limit, or use fewer workers",
        last_stderr=last_stderr,
    )
    failure.__cause__ = cause
    return failure
