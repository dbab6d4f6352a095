"""Waits for a file of SQLite that another process has locked: never without limit, and the error says which process it is.

    run(step) ─► done, as nearly always
       └─ the file is locked ─► again, after pauses ─► done
                                     └─ for longer than the limit ─► FileLockedError

A process holds such a lock for milliseconds. One that is stopped meanwhile, by Ctrl-Z or a debugger, holds it until it goes on. So
once a wait was in vain, further steps wait no more, or only for a moment, until one succeeds.

SQLite itself must not wait: it would do so in C, where no Ctrl-C reaches it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, TypeVar

from pympipool._util.clocks import RunningClock
from pympipool._util.file_locks import describe_holder, how_to_see_users, lock_holders
from pympipool._util.platform import OPEN_FLAGS

__all__ = ["FileLockedError", "FileWait", "create_if_missing"]

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.05
"""Pauses between two tries: the first, and the longest."""

DESCRIBED_S = 1.0
"""For how long a description of the holder is used: it takes a look at many files in /proc."""


class FileLockedError(sqlite3.OperationalError):
    """Another process holds the lock of a file. The message names both, and what to do."""


class FileWait:
    """Waits for a file of SQLite.

    Args:
        path: The file.
        limit_s: For how long (s) the first step waits that finds it locked.
        more_s: For how long further ones wait.
        hint: Says what is known of other hosts that use the file.
    """

    def __init__(self, path: str, limit_s: float, more_s: float = 0.0, hint: Callable[[], str] = str) -> None:
        self._path = path
        self._limit_s = limit_s
        self._more_s = more_s
        self._hint = hint
        self._clock: RunningClock | None = (
            None  # since the first step that has found it locked; None: the last one has not
        )
        self._described = 0.0, ""  # when, and how

    def locked_s(self) -> float:
        """Return for how long (s) all steps have found the file locked. It must be called every few seconds."""
        clock = self._clock
        return 0.0 if clock is None else clock.elapsed()

    def run(self, step: Callable[..., T], *args: Any) -> T:
        """Return what a step returns. It is tried again while the file is locked.

        Raises:
            FileLockedError: It is locked for too long.
            sqlite3.Error: What else is raised.
        """
        done = self._try(step, args)
        return self._wait(step, args) if done is None else done[0]

    def _try(self, step: Callable[..., T], args: tuple[Any, ...]) -> tuple[T] | None:
        """Return what a step returns, in a tuple; None if the file is locked."""
        try:
            result = step(*args)
        except sqlite3.OperationalError as error:
            if not _is_locked(error):
                raise
            return None
        self._clock = None
        return (result,)

    def _wait(self, step: Callable[..., T], args: tuple[Any, ...]) -> T:
        since = self._clock = self._clock or RunningClock()
        limit_s, waited, pause_s = max(self._limit_s - since.elapsed(), self._more_s), RunningClock(), FIRST_PAUSE_S
        while waited.elapsed() < limit_s:
            sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            done = self._try(step, args)
            if done is not None:
                return done[0]
        described_s, text = self._described
        if not text or monotonic() - described_s > DESCRIBED_S:
            text = self._describe()
            self._described = monotonic(), text
        raise FileLockedError(text)

    def _describe(self) -> str:
        paths = self._path, f"{self._path}-shm"
        holder = describe_holder(*paths)
        if not holder and not os.path.exists(paths[1]):  # without a log, those that read keep from writing
            holder = describe_holder(self._path, kind="READ")
        if not holder and os.getpid() in lock_holders(*paths):
            holder = "another thread of this process"
        if holder:
            return f"{self._path!r} is locked by {holder}"
        unseen = f"a process that cannot be seen from here: {how_to_see_users(self._path)} on its host"
        return f"{self._path!r} is locked by {unseen}{self._hint()}"


def create_if_missing(path: str) -> None:
    """Make an empty file that only its owner can read. One that exists must not be opened.

    When a process closes any descriptor of a file, it loses all its locks of it, those of SQLite's connections too. Then another
    process may remove the log with what they have written.

    Raises:
        PermissionError: The folder, or the file, is read-only.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600))
    for needed in (path, os.path.dirname(path)):
        if not os.access(needed, os.W_OK):
            raise PermissionError(
                f"{needed!r} is read-only, and SQLite has to write there even to read: copy the cache directory to where you can"
                " write, and use the copy"
            )


def _is_locked(error: sqlite3.OperationalError) -> bool:
    return "locked" in str(error) or "locking protocol" in str(error)
