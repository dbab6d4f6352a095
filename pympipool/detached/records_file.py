"""The file of the records of jobs: it is opened, locked for a change, and its state is told if it cannot be used."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import RLock
from typing import Any

from pympipool.caching.file_waits import FileLockedError, FileWait, create_if_missing

__all__ = ["HUNG_LIMIT_S", "RecordsFile", "describe_damage", "is_damage"]

FILE = "jobs.sqlite"

FORMAT = 1
"""Names the tables. Version 0 is a file without any."""

OPEN_LIMIT_S = 60.0
"""Longest wait for another script that writes when the file is opened."""

LOCK_LIMIT_S = 5.0
"""The same afterwards: threads that watch jobs have more to do meanwhile, and try it again."""

HUNG_LIMIT_S = 300.0
"""For how long others may do nothing, or lock the file, until the calls fail that wait for that."""


class RecordsFile:
    """The file of the records. Any thread may use it.

    Args:
        folder: The folder of the submissions.
        is_shared: Other hosts may use it too.
        tables: What makes the tables, the last of which is named "tasks".

    Raises:
        FileLockedError: Another process has locked the file.
        ValueError: Another version of pympipool has made it.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, folder: str, *, is_shared: bool, tables: str) -> None:
        hint = partial(_describe_supervisors, folder)
        self._path = os.path.join(folder, FILE)
        self._tables = tables
        self._lock = RLock()
        self._own_changes = 0
        self._reading = FileWait(self._path, LOCK_LIMIT_S, hint=hint)  # which may be possible when writing is not
        self._writing = FileWait(self._path, LOCK_LIMIT_S, hint=hint)
        create_if_missing(self._path)
        self._inode = os.stat(self._path).st_ino
        self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            FileWait(self._path, OPEN_LIMIT_S, hint=hint).run(self._prepare, "TRUNCATE" if is_shared else "WAL")
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, journal: str) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, FORMAT):
            raise ValueError(
                f"{self._path!r}, with the records of detached jobs, is that of another version of pympipool, which this one cannot"
                " read: use another cache_directory, or the other version until its jobs have ended"
            )
        self._connection.execute(f"PRAGMA journal_mode = {journal}")
        self._connection.execute("PRAGMA synchronous = FULL")  # a record that is lost is a job that is lost
        if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone():
            self._connection.executescript(self._tables)
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    def locked_s(self) -> float:
        """Return for how long (s) another process has locked the file, which is tried. To be called every few seconds."""
        with suppress(FileLockedError):
            if self._reading.locked_s():
                self._all("SELECT 1 FROM sqlite_master")
            if self._writing.locked_s():
                self.check_writable()
        return max(self._reading.locked_s(), self._writing.locked_s())

    def lock_problem(self, limit_s: float) -> str:
        """Return which process has locked the file for longer than a limit; "" if none has."""
        if self.locked_s() <= limit_s:
            return ""
        try:
            self._all("SELECT 1 FROM sqlite_master")
            self.check_writable()
        except FileLockedError as locked:
            return str(locked)
        return ""

    def check_writable(self) -> None:
        """Raise FileLockedError if another process has locked the file."""
        with self.transaction():
            pass

    def version(self) -> tuple[int, int]:
        """Return what is another value after each change."""
        return self._all("PRAGMA data_version")[0][0], self._own_changes  # the first counts those of other connections

    def check_in_place(self) -> None:
        """Raise FileNotFoundError if the file was removed: what is noted in it then is lost."""
        with suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                return
        raise FileNotFoundError(
            f"{os.path.dirname(self._path)!r}, with the records of the jobs, was removed while this executor used it; make another"
            " Executor"
        )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Make changes, all or none; no other process makes some meanwhile."""
        with self._lock:
            self._writing.run(self._connection.execute, "BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._writing.run(self._connection.execute, "COMMIT")
                self._own_changes += 1
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _all(self, statement: str, values: Iterable[Any] = ()) -> list[Any]:
        with self._lock:
            return self._reading.run(self._connection.execute, statement, tuple(values)).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def describe_damage(folder: str, error: sqlite3.Error) -> str:
    """Return what to do about records that are damaged."""
    return (
        f"{os.path.join(folder, FILE)!r}, with the records of the jobs, is damaged ({error}): remove it, and what begins with its"
        " name. The next script then submits again what has no result, also if its job still runs"
    )


def is_damage(error: BaseException) -> bool:
    """Return True for an error that no wait ends: the file was truncated or overwritten."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith("no such")
    return isinstance(error, sqlite3.DatabaseError)


def _describe_supervisors(folder: str) -> str:
    """Return which supervisors use the records on other hosts: one of them may have locked the file."""
    known = []
    for name in os.listdir(folder):
        if not name.startswith("supervisor-") or not name.endswith(".lock"):
            continue
        host = name.removeprefix("supervisor-").removesuffix(".lock")
        with suppress(OSError, ValueError), open(os.path.join(folder, name), encoding="utf-8") as file:
            if host != socket.gethostname():
                known.append(f"process {int(file.readline())} on {host}")
    return f". Supervisors of detached jobs there were: {', '.join(known)}" if known else ""
