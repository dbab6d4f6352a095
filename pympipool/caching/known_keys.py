"""The keys that an index has, in memory: for a call that was never made, SQLite need not be asked.

    lacks(key) ─┬─ few calls were asked for so far       ─► False: ask SQLite
                ├─ the key is in the set                 ─► False: ask SQLite, since the result may have been removed
                └─ it is not, and no row was added since ─► True

Rows that this process adds are seen at once, and those of other processes a moment later: such a call runs once more.
"""

from __future__ import annotations

import sqlite3
import threading
from itertools import count
from time import monotonic

__all__ = ["KnownKeys", "changes_of", "note_change"]

ROWS_PER_QUESTION = 12
"""Rows whose keys are read in the time of a question to SQLite. The set is made after as many questions as it costs."""

ROWS_MAX = 1_000_000
"""Largest index whose keys are kept: they take 100 bytes each."""

_NO_ROW = (0, b"")

_changes: dict[str, int] = {}
_numbers = count(1)


def note_change(path: str) -> None:
    """Note that this process has changed an index."""
    _changes[path] = next(_numbers)


def changes_of(path: str) -> int | None:
    """Return a number that is another one after each change of an index by this process."""
    return _changes.get(path)


class KnownKeys:
    """The keys of an index.

    Args:
        connection: Reads the index.
        path: The file of the index.
        refresh_s: How long the set is used before rows are looked for that other processes have added.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, refresh_s: float) -> None:
        self._refresh_s = refresh_s
        self._connection = connection
        self._path = path
        self._keys: set[bytes] | None = None  # None: SQLite is asked
        self._questions = 0
        self._last: tuple[int, bytes] = _NO_ROW
        self._refresh_at_s = 0.0
        self._change: int | None = None

    def lacks(self, key: bytes, lock: threading.RLock) -> bool:
        """Return True if the index certainly has no row with this key.

        Args:
            lock: Held while the connection is used.
        """
        keys = self._keys
        if keys is None:
            self._questions += 1
            if self._questions * ROWS_PER_QUESTION >= self._last[0]:
                with lock:
                    self._begin()
            return False
        if key in keys:
            return False
        if monotonic() >= self._refresh_at_s or _changes.get(self._path) != self._change:
            with lock:
                self._refresh(keys)
            return key not in keys
        return True

    def _begin(self) -> None:
        """Read the keys, unless the index has too many for the number of questions."""
        last = self._connection.execute("SELECT id, key FROM results ORDER BY id DESC LIMIT 1").fetchone()
        self._last = last or _NO_ROW
        if self._last[0] > ROWS_MAX:
            self._questions = -(1 << 62)
        elif self._questions * ROWS_PER_QUESTION >= self._last[0] and self._keys is None:
            # Rows that are added meanwhile are in the set, or have larger numbers.
            self._keys = {key for (key,) in self._connection.execute("SELECT key FROM results")}

    def _rows_from(self, number: int) -> sqlite3.Cursor:
        return self._connection.execute("SELECT id, key FROM results WHERE id >= ? ORDER BY id", (number,))

    def _refresh(self, keys: set[bytes]) -> None:
        """Add the keys of new rows."""
        change, refresh_at_s = _changes.get(self._path), monotonic() + self._refresh_s
        rows = self._rows_from(self._last[0])
        row = rows.fetchone()
        if row != self._last:  # it was removed: SQLite gives numbers of the newest rows again
            rows = self._rows_from(0)
            row = rows.fetchone()
        self._last = _NO_ROW
        while row is not None:
            keys.add(row[1])
            self._last, row = row, rows.fetchone()
        self._change, self._refresh_at_s = change, refresh_at_s
