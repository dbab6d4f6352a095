"""A cache directory: results are found, written and removed.

    index.sqlite       small results, and what is known of all
    results/ab/abcd... large results

A file is written before its row, and removed after it: a file without a row is never found, and is overwritten.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pympipool._util.platform import HAS_PROC
from pympipool.caching import directory as directories
from pympipool.caching.exceptions import is_raised
from pympipool.caching.file_format import INLINE_BYTES_MAX, LeftFile
from pympipool.caching.file_waits import FileLockedError
from pympipool.caching.files import ResultFiles
from pympipool.caching.index import Index, Row

if TYPE_CHECKING:
    from pympipool.caching.handover import Handover
    from pympipool.caching.results import Result

__all__ = ["Store"]


class Store:
    """The results in a directory.

    Args:
        directory: The directory.
        create: Make it if there is none.
        handover: Where workers may leave large results. It is used on a file system that only this host uses.

    Raises:
        BlockingIOError: Another process has locked its index.
        OSError: It cannot be made or read; another user can write to it.
        ValueError: It has results of another version of pympipool.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, create: bool = True, handover: Handover | None = None
    ) -> None:
        checked = directories.prepare(directory, create=create)
        self.path = checked.path
        self.is_shared = checked.is_shared
        if not create and not os.path.exists(os.path.join(self.path, "index.sqlite")):
            raise FileNotFoundError(f"{self.path!r} has no cached results; name the cache_directory of an Executor")
        self._handover = None if self.is_shared else handover
        self.files = ResultFiles(os.path.join(self.path, "results"), maps=not self.is_shared, handover=self._handover)
        self.files.remove_unfinished()
        try:
            self.index = Index(checked)
        except FileLockedError as error:
            raise BlockingIOError(str(error)) from error
        except sqlite3.Error as error:
            raise OSError(f"cannot open the cache in {self.path!r}: {error}") from error
        if self._handover is not None:
            self._handover.open()

    def find(self, key: bytes) -> bytes | int | None:
        """Look for a result. What is damaged is removed.

        Returns:
            The pickle of a small result, the size of the file of a large one, None if there is none.
        """
        try:
            found = self.index.find(key)
        except sqlite3.Error:  # the call runs instead
            return None
        return None if found is None else self._check(key, *found)

    def find_all(self, keys: Sequence[bytes], *, now: bool = False) -> dict[bytes, bytes | int]:
        """Look for several results, as `find` does; return those that there are.

        Args:
            now: As of `Index.find_all`.
        """
        try:
            rows = self.index.find_all(keys, now=now)
        except sqlite3.Error:  # the calls run instead
            return {}
        checked = {key: self._check(key, *row) for key, row in rows.items()}
        return {key: found for key, found in checked.items() if found is not None}

    def _check(self, key: bytes, value: bytes | None, crc: int, size: int, boot: bytes) -> bytes | int | None:
        """Return what `find` returns for a row; remove it if its result is damaged."""
        if value is not None:
            if type(value) is bytes and crc32(value) == crc:
                return value
        elif type(size) is int:
            try:
                if self._is_whole(key, size, in_full=boot == b"" or boot != boot_id()):
                    return size
            except (OSError, MemoryError):  # there is no free descriptor, for example
                return None
        self.remove_damaged(key, size)
        return None

    def _is_whole(self, key: bytes, size: int, *, in_full: bool) -> bool:
        """Return True if the file of a result is what was written.

        Raises:
            OSError: It cannot be read now.
        """
        if not in_full:
            return self.files.check(key, size)
        try:
            self.files.read(key, size, in_full=True)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def write(self, results: Iterable[Result]) -> None:
        """Add results.

        Raises:
            OSError, sqlite3.Error: There is no room, for example. What comes before may have been added.
        """
        rows: list[Row] = []
        left: dict[bytes, LeftFile] = {}
        boot = boot_id()
        try:
            for key, parts, function, arguments, run_ns in results:
                value, size = self._placed(key, parts)
                crc = 0 if value is None else crc32(value)
                rows.append(Row(key, value, crc, size, boot, function, arguments, time(), run_ns))
                if isinstance(parts, LeftFile):
                    left[key] = parts
        finally:
            if rows:
                self._write_rows(rows, left)

    def _write_rows(self, rows: list[Row], left: dict[bytes, LeftFile]) -> None:
        """Write rows; if that is not possible, remove their files, or give them back: they would never be found."""
        try:
            self.index.write(rows)
        except sqlite3.Error:
            for key in [row.key for row in rows if row.value is None]:
                with suppress(sqlite3.Error, OSError):
                    if key in left:
                        self.files.give_back(key, left[key])
                    elif self.index.find(key) is None:  # else another script has put the same there
                        self.files.remove(key)
            raise

    def _placed(self, key: bytes, parts: Sequence[Any] | LeftFile) -> tuple[bytes | None, int]:
        """Return the pickle of a small result, and its size; None, and the size of the file to which a large one was written."""
        if isinstance(parts, LeftFile):
            self.files.take_left(key, parts)
            return None, parts.size_bytes
        size = memoryview(parts[0]).nbytes
        if (len(parts) == 1 and size <= INLINE_BYTES_MAX) or is_raised(parts):
            return bytes(parts[0]), size
        return None, self.files.write(key, parts)

    def adopt(self, key: bytes, path: str, size_bytes: int, function: str, arguments: str, run_ns: int) -> None:
        """Add a result whose file (see `ResultFiles`) was read in full, and is on the same file system; it is moved.

        Raises:
            OSError, sqlite3.Error: There is no such file any more, or no room. Then the file stays where it was.
        """
        with suppress(OSError):  # some file systems have no times; if the file is missing, the next step tells it
            os.utime(path)  # else it would be old without a row, for a moment (see `remove_orphans`)
        self.files.take(key, path)
        try:
            self.index.write([Row(key, None, 0, size_bytes, boot_id(), function, arguments, time(), run_ns)])
        except sqlite3.Error:
            with suppress(OSError):
                os.rename(self.files.path(key), path)
            raise

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove results.

        Raises:
            sqlite3.Error: They cannot be removed: another process has locked the index, for example.
        """
        try:
            self.index.remove(keys)
        except sqlite3.OperationalError as error:
            if "full" not in str(error):
                raise
            for key in keys:  # which makes room; rows without files are not used
                self.files.remove(key)
            self.index.remove(keys)
        for key in keys:
            self.files.remove(key)

    def remove_orphans(self) -> int:
        """Remove the files of large results that have no rows, as their script was killed; return their number."""
        found = self.files.old_keys()
        orphans = found.difference(row.key for row in self.index.rows() if row.value is None)
        for key in orphans:
            self.files.remove(key)
        return len(orphans)

    def remove_damaged(self, key: bytes, size: int) -> None:
        """Remove a result, but not the one with which another script is replacing it: the file comes before its row.

        Args:
            size: That of its row.
        """
        with suppress(sqlite3.Error, OSError, MemoryError):
            self._remove_of_size(key, size)

    def _remove_of_size(self, key: bytes, size: int) -> None:
        self.index.remove_of_size(key, size)
        if not self.files.is_replaced(key, size):
            self.files.remove(key)

    def verify(self) -> Iterator[tuple[Row, bool]]:
        """Yield each result, and True if it is what was written; remove the others.

        Raises:
            OSError: A file cannot be read now.
            sqlite3.Error: A damaged result cannot be removed.
        """
        for row in list(self.index.rows()):
            if row.value is not None:
                is_whole = type(row.value) is bytes and crc32(row.value) == row.crc
            else:
                is_whole = self._is_whole(row.key, row.size, in_full=True)
            if not is_whole:
                self._remove_of_size(row.key, row.size)
            yield row, is_whole

    def close(self) -> None:
        """Close the index."""
        self.index.close()
        if self._handover is not None:
            self._handover.close()


@functools.cache
def boot_id() -> bytes:
    """Return what tells this boot of this host from all others; b"" if that is not known."""
    if not HAS_PROC:
        return b""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return b""
