"""The files of large results: they are written, found and read, and their buffers are mapped.

A file is written under another name and then renamed, so that none is ever seen half-written, wherever its writer was killed.
After a failure of power a file may lack what was not on the disk yet. So what another boot of a host has written is read in full,
and its sums are compared, before it is used; else only its head.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any

from pympipool._core.file_mapping import FileMapping
from pympipool._util.platform import IS_WINDOWS
from pympipool.caching.file_format import buffers_are_whole, head_is_whole, split, write_new
from pympipool.caching.handover import UNFINISHED, remove_abandoned

if IS_WINDOWS:
    from pympipool.caching import file_access_windows as access
else:
    from pympipool.caching import file_access_unix as access

if TYPE_CHECKING:
    from pympipool.caching.file_format import LeftFile
    from pympipool.caching.handover import Handover

__all__ = ["ResultFiles"]

UNFINISHED_S = 3600
"""Age from which a file there is one that a killed script has left: none takes so long to write."""

MAPPED_BYTES_MIN = 1 << 16
"""Size of a file from which mapping it takes less time than reading it."""

KEPT_MAX, KEPT_BYTES_MAX = 2000, 1 << 22
"""Number and size of the files whose mapping is kept between the answer of a call and the reading of its result. For larger
files the time to open them twice is small; and a file that was removed takes room as long as it is mapped."""

_SHORT_OF_ROOM = {errno.ENOMEM, errno.EAGAIN, errno.ENODEV, errno.EPERM}
"""Errors of a mapping after which the file may still be read: a process has 65 530 mappings at most."""


class ResultFiles:
    """The large results of a cache directory.

    Args:
        folder: That of the files.
        maps: Map large files. Else read them: on a network file system a file that another host removes is gone.
        handover: Where workers leave files.
    """

    def __init__(self, folder: str, *, maps: bool = True, handover: Handover | None = None) -> None:
        self.folder = folder
        self._unfinished = os.path.join(folder, UNFINISHED)
        self._maps = maps
        self._handover = handover
        self._mapped: dict[bytes, tuple[int, list[Any]]] = {}  # size, parts: was checked, and not read yet

    def path(self, key: bytes) -> str:
        """Return the file of a key."""
        name = key.hex()
        return f"{self.folder}/{name[:2]}/{name}"

    def write(self, key: bytes, parts: Sequence[Any]) -> int:
        """Write a result; return the size of its file in bytes.

        Args:
            parts: The pickle and its buffers, as bytes.

        Raises:
            OSError: There is no room, for example. Nothing is left then.
        """
        temporary = os.path.join(self._unfinished, f"{os.getpid()}.{os.urandom(8).hex()}")
        try:
            size_bytes = write_new(temporary, parts)
        except FileNotFoundError:
            _make_folders(temporary)
            size_bytes = write_new(temporary, parts)
        try:
            self.take(key, temporary)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return size_bytes

    def take(self, key: bytes, path: str) -> None:
        """Move the file of a result that was written elsewhere to its place here."""
        try:
            access.replace(path, self.path(key), self._unfinished)
        except FileNotFoundError:
            _make_folders(self.path(key))
            access.replace(path, self.path(key), self._unfinished)
        self._mapped.pop(key, None)

    def take_left(self, key: bytes, left: LeftFile) -> None:
        """Move the file that a worker has left to its place here."""
        self.take(key, self._path_of_left(left))

    def give_back(self, key: bytes, left: LeftFile) -> None:
        """Move the file that a worker has left to where it was, as the result is not stored."""
        self._mapped.pop(key, None)
        os.rename(self.path(key), self._path_of_left(left))

    def read(self, key: bytes, size_bytes: int | None = None, *, in_full: bool = False) -> list[Any]:
        """Return the parts of a result. Its buffers are mapped, and changes to them stay in this process.

        Args:
            size_bytes: The size that the index tells: the mapping that `check` has kept is used. None: that of the file, as it is
                now.
            in_full: Compare the sum of the buffers, too.

        Raises:
            ValueError: The file is not what was written.
            OSError: It cannot be read.
        """
        mapped_bytes, parts = self._mapped.pop(key, (None, []))
        if mapped_bytes is not None and mapped_bytes == size_bytes and not in_full:
            return parts
        return self._read(self.path(key), size_bytes, in_full)

    def read_left(self, left: LeftFile) -> list[Any]:
        """Return the parts of a result in the file that a worker has left, as `read` does."""
        return self._read(self._path_of_left(left), left.size_bytes)

    def discard_left(self, left: LeftFile) -> None:
        """Remove the file that a worker has left, if it is still there."""
        with suppress(OSError):
            access.remove(self._path_of_left(left), self._unfinished)

    def _path_of_left(self, left: LeftFile) -> str:
        return os.path.join("" if self._handover is None else self._handover.path, left.name)

    def _read(self, path: str, size_bytes: int | None, in_full: bool = False) -> list[Any]:
        descriptor = access.open_to_read(path)
        try:
            size = os.fstat(descriptor).st_size
            if size_bytes not in (None, size):
                raise ValueError("the file has another size")
            content = self._content(descriptor, size)
        finally:
            os.close(descriptor)
        parts = split(content)
        if in_full and not buffers_are_whole(content, parts):
            raise ValueError("the buffers are not those that were written")
        return parts

    def _content(self, descriptor: int, size_bytes: int) -> memoryview:
        if self._maps and size_bytes >= MAPPED_BYTES_MIN:
            try:
                return memoryview(FileMapping(descriptor, size_bytes))
            except OSError as error:
                if error.errno not in _SHORT_OF_ROOM:
                    raise
        content = bytearray(size_bytes)
        if not access.read_all(descriptor, content):
            raise ValueError("the file has become shorter")
        return memoryview(content)

    def check(self, key: bytes, size_bytes: int) -> bool:
        """Return True if the head of a file is what was written, False if it is not, or there is no file.

        The mapping of a file of moderate size is kept until it is read.

        Raises:
            OSError: It cannot be read now: there is no free descriptor, for example.
        """
        self._mapped.pop(key, None)  # of what another script may have replaced
        if self._maps and MAPPED_BYTES_MIN <= size_bytes <= KEPT_BYTES_MAX and len(self._mapped) < KEPT_MAX:
            try:
                self._mapped[key] = size_bytes, self._read(self.path(key), size_bytes)
            except (FileNotFoundError, ValueError):
                return False
            return True
        try:
            descriptor = access.open_to_read(self.path(key))
        except FileNotFoundError:
            return False
        try:
            return head_is_whole(descriptor, size_bytes)
        finally:
            os.close(descriptor)

    def is_replaced(self, key: bytes, size_bytes: int) -> bool:
        """Return True if a whole file of another size is in place of one: another script has put it there, maybe before its row.

        Raises:
            OSError: It cannot be read now.
        """
        path = self.path(key)
        try:
            return os.stat(path).st_size != size_bytes and bool(self._read(path, None))
        except (FileNotFoundError, ValueError):
            return False

    def remove_unfinished(self) -> None:
        """Remove what killed scripts have left, and what could not be removed before."""
        remove_abandoned(self._unfinished, UNFINISHED_S)
        with suppress(OSError), os.scandir(self._unfinished) as entries:
            for entry in entries:
                with suppress(OSError):
                    if access.is_removed(entry.name) or entry.stat().st_mtime < time() - UNFINISHED_S:
                        os.unlink(entry.path)

    def old_keys(self) -> set[bytes]:
        """Return the keys of all files that were not written just now."""
        keys = set()
        before_s = time() - UNFINISHED_S
        for number in range(256):
            with suppress(OSError), os.scandir(os.path.join(self.folder, f"{number:02x}")) as entries:
                for entry in entries:
                    with suppress(OSError, ValueError):
                        if entry.stat().st_mtime < before_s:
                            keys.add(bytes.fromhex(entry.name))
        return keys

    def remove(self, key: bytes) -> None:
        """Remove the file of a key, if there is one."""
        self._mapped.pop(key, None)
        with suppress(OSError):
            access.remove(self.path(key), self._unfinished)


def _make_folders(path: str) -> None:
    for folder in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)  # os.makedirs would give its mode to the last one only
