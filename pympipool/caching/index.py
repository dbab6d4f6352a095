"""The index of a cache directory: one file of SQLite with the small results, and what is known of all.

Scripts may use it at once. A writer that was killed leaves no lock: those of SQLite end with their process. That of a stopped one
stays: then there are no answers, and nothing is written (see `FileWait`).
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from types import NoneType
from typing import Any, NamedTuple
from zlib import crc32

from pympipool.caching.directory import Directory
from pympipool.caching.file_waits import FileWait, create_if_missing
from pympipool.caching.known_keys import KnownKeys, note_change
from pympipool.caching.read_ahead import Found, ReadAhead
from pympipool.serialization import _LOADERS

__all__ = ["COLUMNS", "FORMAT", "Index", "Row"]

FORMAT = crc32(repr((3, sys.byteorder, _LOADERS)).encode()) & 0x7FFFFFFF
"""Names how results are stored. Pickles of results have numbers in place of the names of functions that load them, and checksums
depend on the order of bytes."""

LOCK_LIMIT_S, LOCK_MORE_S = 30.0, 0.1
"""Longest wait for another script that writes; and for how long results wait after a wait in vain."""

REFRESH_S, SHARED_REFRESH_S = 0.01, 0.5
"""How long this process takes a key for unknown that another one has added, and uses a row that another one has replaced; the
second on a network file system."""

KEYS_OF_QUESTION = 500
"""Number of keys for which SQLite is asked at once; it takes 32766 at most."""

CHECKPOINT_PAGES = 4000
"""Pages that are written to the log before they are moved to the file, and both are flushed: those of 15 000 small results."""

CACHE_KB = 16_384
"""Memory of a connection for pages: SQLite's 2 MB are too few for the index of 100 000 keys."""

_TABLE = """CREATE TABLE IF NOT EXISTS results (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    value BLOB,
    crc INTEGER NOT NULL,
    size INTEGER NOT NULL,
    boot BLOB NOT NULL,
    function TEXT NOT NULL,
    arguments TEXT NOT NULL,
    created REAL NOT NULL,
    run_ns INTEGER NOT NULL
)"""
"""New rows come at the end: only the index of the keys, which is small, is changed in many places at once."""


class Row(NamedTuple):
    """A result.

    Attributes:
        key: The key of the call.
        value: The pickle of a small result; None: the result is in a file.
        crc: The checksum of the value.
        size: Bytes of the pickle, or of the file.
        boot: Which boot of which host has written it.
        function: The name of the function.
        arguments: The arguments, as text; or the name that the user has given as `cache_key`.
        created: When it was written (s since 1970).
        run_ns: How long the call has run in the worker (ns).
    """

    key: bytes
    value: bytes | None
    crc: int
    size: int
    boot: bytes
    function: str
    arguments: str
    created: float
    run_ns: int


_TYPES: tuple[Any, ...] = (bytes, (bytes, NoneType), int, int, bytes, str, str, float, int)

COLUMNS = ", ".join(Row._fields)
_INSERT = f"INSERT OR REPLACE INTO results ({COLUMNS}) VALUES ({', '.join('?' * len(Row._fields))})"


class Index:
    """The index of a cache directory. Any thread may use it.

    Args:
        directory: The directory.

    Raises:
        ValueError: Another version of pympipool has written the results.
        FileLockedError: Another process has locked the file.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, directory: Directory) -> None:
        self._path = os.path.join(directory.path, "index.sqlite")
        self._is_shared = directory.is_shared
        self._lock, self._find_lock = threading.RLock(), threading.RLock()  # finalizers may call in the midst
        self._reading = FileWait(self._path, LOCK_LIMIT_S)
        self._writing = FileWait(self._path, LOCK_LIMIT_S, LOCK_MORE_S)
        self._reader = self._open()
        self._writer: sqlite3.Connection | None = None
        refresh_s = SHARED_REFRESH_S if self._is_shared else REFRESH_S
        self._known = KnownKeys(self._reader, self._path, refresh_s)
        self._ahead = ReadAhead(self._reader, self._path, self._find_lock, refresh_s)

    def _open(self) -> sqlite3.Connection:
        """Open the file; begin anew if it is none of SQLite's."""
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(OSError):
                    os.unlink(self._path + suffix)
            os.replace(self._path, self._path + ".damaged")
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        create_if_missing(self._path)
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            self._writing.run(self._prepare, connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        self._set_journal(connection)
        if version not in (0, FORMAT):
            raise ValueError(
                f"{os.path.dirname(self._path)!r} has results of another version of pympipool, which this one cannot read: use"
                " another cache_directory, or remove this one"
            )
        if version == 0:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        if self._is_shared:
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = FULL")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")

    def find(self, key: bytes) -> Found | None:
        """Return value, crc, size and boot of a result; None if there is none."""
        return self._reading.run(self._find, key)

    def _find(self, key: bytes) -> Found | None:
        return None if self._known.lacks(key, self._find_lock) else self._ahead.find(key)

    def find_all(self, keys: Sequence[bytes], *, now: bool = False) -> dict[bytes, Found]:
        """Return value, crc, size and boot of the results that there are of these.

        Args:
            now: Also of what another process has written a moment ago.
        """
        return self._reading.run(self._find_all, keys, now)

    def _find_all(self, keys: Sequence[bytes], now: bool) -> dict[bytes, Found]:
        keys = [key for key in keys if now or not self._known.lacks(key, self._find_lock)]
        found = {}
        for begin in range(0, len(keys), KEYS_OF_QUESTION):
            some = keys[begin : begin + KEYS_OF_QUESTION]
            statement = f"SELECT key, value, crc, size, boot FROM results WHERE key IN ({', '.join('?' * len(some))})"
            with self._find_lock:
                found.update({key: row for key, *row in self._reader.execute(statement, some)})
        return found

    def write(self, rows: Iterable[Row]) -> None:
        """Add results, all or none.

        Raises:
            FileLockedError: Another process has locked the file.
            sqlite3.Error: There is no room, for example.
        """
        self._change(_INSERT, rows)

    def remove(self, keys: Iterable[bytes]) -> None:
        """Remove results, all or none."""
        self._change("DELETE FROM results WHERE key = ?", [(key,) for key in keys])

    def remove_of_size(self, key: bytes, size: int) -> None:
        """Remove a result, unless one of another size has replaced it."""
        self._change("DELETE FROM results WHERE key = ? AND size = ?", [(key, size)])

    def _change(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = self._connect()
            self._writing.run(self._writer.execute, "BEGIN IMMEDIATE")
            try:
                self._writer.executemany(statement, rows)
                self._writing.run(self._writer.execute, "COMMIT")
                note_change(self._path)
            except BaseException:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise

    def rows(self) -> Iterator[Row]:
        """Yield all results, in the order in which they were written.

        Raises:
            sqlite3.Error: The file is damaged.
        """
        for values in self._reading.run(self._reader.execute, f"SELECT {COLUMNS} FROM results ORDER BY id"):
            if not all(isinstance(value, kind) for value, kind in zip(values, _TYPES, strict=True)):
                raise sqlite3.DatabaseError("a row has values of other types than those that were written")
            yield Row(*values)

    def row(self, key: bytes) -> Row | None:
        """Return a result; None if there is none."""
        statement = f"SELECT {COLUMNS} FROM results WHERE key = ?"
        values = self._reading.run(self._reader.execute, statement, (key,)).fetchone()
        return None if values is None else Row(*values)

    def vacuum(self) -> None:
        """Give the room of removed results back to the file system."""
        with closing(self._connect()) as writer:
            self._writing.run(writer.execute, "VACUUM")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
