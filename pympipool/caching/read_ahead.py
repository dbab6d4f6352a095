"""Rows that are read from an index together: a question to SQLite takes as long as ten of its rows.

    find(key) ─┬─ read with another one, moments ago ─► that row
               └─ else ─► SQLite; if the row is one of those behind the last one: ROWS_AHEAD more with it

A script that runs again asks for its results about in the order in which they were written.
"""

from __future__ import annotations

import sqlite3
import threading
from time import monotonic
from typing import TypeAlias

from pympipool.caching.known_keys import changes_of

__all__ = ["Found", "ReadAhead"]

Found: TypeAlias = "tuple[bytes | None, int, int, bytes]"
"""Value, crc, size and boot of a result."""

ROWS_AHEAD = 64
"""Rows that are read together: they take 40 us, and at most 256 KB."""

_COLUMNS = "id, key, value, crc, size, boot"
_FIND = f"SELECT {_COLUMNS} FROM results WHERE key = ?"
_FOLLOWING = f"SELECT {_COLUMNS} FROM results WHERE id > ? ORDER BY id LIMIT {ROWS_AHEAD}"


class ReadAhead:
    """Finds the rows of an index.

    Args:
        connection: Reads the index.
        path: The file of the index.
        lock: Held while the connection is used.
        refresh_s: How long a row is used that was read ahead, since another process may have replaced it.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, lock: threading.RLock, refresh_s: float) -> None:
        self._connection = connection
        self._path = path
        self._lock = lock  # two threads may get one statement, and the second sets its key before the first runs it
        self._refresh_s = refresh_s
        self._last_id = 0
        # One object, since `find` has no lock: the rows, `changes_of` before they were read, and until when they are used.
        self._read: tuple[dict[bytes, tuple[int, Found]], int | None, float] = {}, None, 0.0

    def find(self, key: bytes) -> Found | None:
        """Return what is stored for a key; None if there is nothing."""
        rows, change, expires_at_s = self._read
        row = rows.pop(key, None)
        if row is not None and monotonic() < expires_at_s and change == changes_of(self._path):
            self._last_id, found = row
            return found
        with self._lock:
            return self._ask(key)

    def _ask(self, key: bytes) -> Found | None:
        one = self._connection.execute(_FIND, (key,)).fetchone()
        if one is None:
            return None
        last_id, self._last_id = self._last_id, one[0]
        if 0 < self._last_id - last_id <= ROWS_AHEAD:
            change, expires_at_s = changes_of(self._path), monotonic() + self._refresh_s
            following = self._connection.execute(_FOLLOWING, (self._last_id,)).fetchall()
            self._read = {row[1]: (row[0], row[2:]) for row in following}, change, expires_at_s
        found: Found = one[2:]
        return found
