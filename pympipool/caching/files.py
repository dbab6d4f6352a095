"""Large results: a file each, whose buffers are mapped when it is read.

    | magic | parts | crc of sizes and pickle | crc of the buffers | size of each part | pickle | padding | buffer | padding | ...

A file is written under another name and then renamed, so that none is ever seen half-written, wherever its writer was killed.
After a failure of power a file may lack what was not on the disk yet. So what another boot of a host has written is read in full,
and its sums are compared, before it is used; else only its head.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from time import time
from typing import Any
from zlib import crc32

from pympipool._core.file_mapping import FileMapping

__all__ = ["ResultFiles"]

MAGIC = b"PMPcache"
_HEAD = struct.Struct("<8sQII")

UNFINISHED = "unfinished"
"""Folder of the files that are being written."""

UNFINISHED_S = 3600
"""Age from which such a file is one that a killed script has left: none takes so long to write."""

_numbers = count()

ALIGNMENT = 64
"""Buffers begin at multiples of a cache line."""

HEAD_BYTES = 4096
"""Bytes that are read to check a file: the sizes and the pickle of a few arrays."""

MAPPED_BYTES_MIN = 1 << 16
"""Size of a file from which mapping it takes less time than reading it."""


class ResultFiles:
    """The large results of a cache directory.

    Args:
        folder: That of the files.
        maps: Map large files. Else read them: on a network file system a file that another host removes is gone.
    """

    def __init__(self, folder: str, *, maps: bool = True) -> None:
        self.folder = folder
        self._maps = maps

    def path(self, key: bytes) -> str:
        """Return the file of a key."""
        name = key.hex()
        return os.path.join(self.folder, name[:2], name)

    def write(self, key: bytes, parts: Sequence[Any]) -> int:
        """Write a result; return the size of its file in bytes.

        Args:
            parts: The pickle and its buffers, as bytes.

        Raises:
            OSError: There is no room, for example. Nothing is left then.
        """
        parts = [memoryview(part).cast("B") for part in parts]
        sizes = struct.pack(f"<{len(parts)}Q", *map(len, parts))
        buffers_crc = 0
        for part in parts[1:]:
            buffers_crc = crc32(part, buffers_crc)
        head = _HEAD.pack(MAGIC, len(parts), crc32(parts[0], crc32(sizes)), buffers_crc)
        blocks, position = [head, sizes], len(head) + len(sizes)
        for number, part in enumerate(parts):
            padding = -position % ALIGNMENT if number else 0
            blocks += [bytes(padding), part]
            position += padding + len(part)
        temporary = os.path.join(self.folder, UNFINISHED, f"{os.uname().nodename}.{os.getpid()}.{next(_numbers)}")
        try:
            descriptor = _create(temporary)
            try:
                _write_all(descriptor, [block for block in blocks if len(block)])
            finally:
                os.close(descriptor)
            _rename(temporary, self.path(key))
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return position

    def take(self, key: bytes, path: str) -> None:
        """Move the file of a result that was written elsewhere to its place here."""
        _rename(path, self.path(key))

    def read(self, key: bytes, size_bytes: int, *, in_full: bool = False) -> list[Any]:
        """Return the parts of a result. Its buffers are mapped, and changes to them stay in this process.

        Args:
            size_bytes: The size that the index tells.
            in_full: Compare the sum of the buffers, too.

        Raises:
            ValueError: The file is not what was written.
            OSError: It cannot be read.
        """
        descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != size_bytes:
                raise ValueError("the file has another size")
            if self._maps and size_bytes >= MAPPED_BYTES_MIN:
                content = memoryview(FileMapping(descriptor, size_bytes))
            else:
                content = memoryview(bytearray(size_bytes))
                _read_all(descriptor, content)
        finally:
            os.close(descriptor)
        parts = _split(content)
        if in_full:
            buffers_crc = 0
            for part in parts[1:]:
                buffers_crc = crc32(part, buffers_crc)
            if buffers_crc != _HEAD.unpack_from(content)[3]:
                raise ValueError("the buffers are not those that were written")
        return parts

    def check(self, key: bytes, size_bytes: int) -> bool:
        """Return True if the head of a file is what was written."""
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(descriptor).st_size != size_bytes:
                return False
            head = os.pread(descriptor, HEAD_BYTES, 0)
            magic, number, crc, _ = _HEAD.unpack_from(head)
            begin = _HEAD.size + 8 * number
            if magic != MAGIC or begin > size_bytes:
                return False
            end = begin + int.from_bytes(head[_HEAD.size : _HEAD.size + 8], "little")
            if end > size_bytes:
                return False
            if end > len(head):
                head += os.pread(descriptor, end - len(head), len(head))
            return bool(crc == crc32(head[_HEAD.size : end]) and end <= len(head))
        except (OSError, struct.error, MemoryError):
            return False
        finally:
            os.close(descriptor)

    def remove_unfinished(self) -> None:
        """Remove the files that killed scripts have left."""
        with suppress(OSError), os.scandir(os.path.join(self.folder, UNFINISHED)) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat().st_mtime < time() - UNFINISHED_S:
                        os.unlink(entry.path)

    def remove(self, key: bytes) -> None:
        """Remove the file of a key, if there is one."""
        with suppress(OSError):
            os.unlink(self.path(key))


def _split(content: memoryview) -> list[memoryview]:
    """Return the parts in a file.

    Raises:
        ValueError: It is not what was written.
    """
    try:
        magic, number, crc, _ = _HEAD.unpack_from(content)
        if magic != MAGIC or number * 8 > len(content):
            raise ValueError("the file has no head")
        sizes = struct.unpack_from(f"<{number}Q", content, _HEAD.size)
    except struct.error:
        raise ValueError("the file has no head") from None
    parts: list[memoryview] = []
    position = _HEAD.size + 8 * number
    for size in sizes:
        position += -position % ALIGNMENT if parts else 0
        parts.append(content[position : position + size])
        position += size
    if position != len(content) or crc != crc32(content[_HEAD.size : _HEAD.size + 8 * number + sizes[0]]):
        raise ValueError("the pickle is not the one that was written")
    return parts


def _read_all(descriptor: int, content: memoryview) -> None:
    """Fill memory from a file.

    Raises:
        ValueError: The file is shorter.
    """
    position = 0
    while position < len(content):
        count = os.preadv(descriptor, [content[position:]], position)
        if count == 0:
            raise ValueError("the file has become shorter")
        position += count


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        _make_folders(path)
        return os.open(path, flags, 0o600)


def _rename(path: str, new_path: str) -> None:
    try:
        os.rename(path, new_path)
    except FileNotFoundError:
        _make_folders(new_path)
        os.rename(path, new_path)


def _make_folders(path: str) -> None:
    for folder in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)  # os.makedirs would give its mode to the last one only


def _write_all(descriptor: int, blocks: list[Any]) -> None:
    """Write all bytes of some blocks."""
    while blocks:
        written = os.writev(descriptor, blocks[:64])
        while blocks and written >= len(blocks[0]):
            written -= len(blocks.pop(0))
        if written:
            blocks[0] = memoryview(blocks[0])[written:]
