"""The format of a file with a large result. Workers write such files, too: this module imports little.

    | magic | parts | checksum of sizes and pickle | checksum of the buffers | size of each part | pickle | padding | buffer | ...

A worker that has written the file of its result sends a reference in its place: `left_in` tells it from a pickle.
"""

from __future__ import annotations

import os
from struct import Struct, error, pack, unpack_from

from pympipool._core.file_mapping import checksum
from pympipool._util.platform import IS_WINDOWS, OPEN_FLAGS

if IS_WINDOWS:
    from pympipool.caching.file_access_windows import read_all, write_all
else:
    from pympipool.caching.file_access_unix import read_all, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = [
    "INLINE_BYTES_MAX",
    "LeftFile",
    "buffers_are_whole",
    "head_is_whole",
    "left_in",
    "split",
    "write_new",
]

INLINE_BYTES_MAX = 4096
"""Size up to which a result is kept in the index."""

MAGIC = b"PMPcache"
_HEAD = Struct("<8sQQQ")

ALIGNMENT = 64
"""Buffers begin at multiples of a cache line."""

HEAD_BYTES = 4096
"""Bytes that are read to check a file: the sizes and the pickle of a few arrays."""

_LEFT = b"@"
"""Begins a reference; the size and the name of the file follow. No pickle begins with it."""


class LeftFile:
    """A file that a worker has left.

    Args:
        name: Its name in the folder for such files.
        size_bytes: Its size.
    """

    __slots__ = ("name", "size_bytes")

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name = name
        self.size_bytes = size_bytes

    def reference(self) -> bytes:
        """Return what the worker sends in place of the result."""
        return _LEFT + b"%d %b" % (self.size_bytes, self.name.encode())


def left_in(parts: Any) -> LeftFile | None:
    """Return the file to which a result refers, as it was received; None if it is the result itself."""
    part = parts[0] if type(parts) is list else parts
    if type(part) is not bytes or not part.startswith(_LEFT):
        return None
    size, name = part[1:].decode().split(" ")
    return LeftFile(os.path.basename(name), int(size))


def write_new(path: str, parts: Sequence[Any]) -> int:
    """Write a result to a new file; return its size in bytes.

    Args:
        parts: The pickle and its buffers, as bytes.

    Raises:
        OSError: There is such a file, no such folder, or no room, for example. Nothing is left then.
    """
    blocks, size_bytes = _blocks([memoryview(part).cast("B") for part in parts])
    if not _write_unnamed(path, list(blocks)):
        _write_named(path, blocks)
    return size_bytes


def _write_unnamed(path: str, blocks: list[memoryview]) -> bool:
    """Write a file that gets its name last: if this process is killed before, the system removes it.

    Returns:
        False: The file system has no such files.
    """
    try:
        descriptor = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE | OPEN_FLAGS, 0o600)
    except (OSError, AttributeError):  # of macOS and Windows
        return False
    try:
        write_all(descriptor, blocks)
        return _give_name(descriptor, path)
    finally:
        os.close(descriptor)


def _give_name(descriptor: int, path: str) -> bool:
    try:
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)  # with src_dir_fd, Python follows the link
    except FileExistsError:
        raise
    except OSError:  # there is no /proc, or something forbids such links
        return False
    return True


def _write_named(path: str, blocks: list[memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600)
    try:
        try:
            write_all(descriptor, blocks)
        finally:
            os.close(descriptor)
    except BaseException:
        try:
            os.unlink(path)
        except OSError:
            pass
        raise


def split(content: memoryview) -> list[memoryview]:
    """Return the parts in a file.

    Raises:
        ValueError: It is not what was written.
    """
    try:
        magic, number, head_sum, _ = _HEAD.unpack_from(content)
        if magic != MAGIC or number * 8 > len(content):
            raise ValueError("the file has no head")
        sizes = unpack_from(f"<{number}Q", content, _HEAD.size)
    except error:
        raise ValueError("the file has no head") from None
    parts: list[memoryview] = []
    position = _HEAD.size + 8 * number
    for size in sizes:
        position += -position % ALIGNMENT if parts else 0
        parts.append(content[position : position + size])
        position += size
    if position != len(content) or head_sum != _sum_of_head(content, number, sizes[0]):
        raise ValueError("the pickle is not the one that was written")
    return parts


def buffers_are_whole(content: memoryview, parts: Sequence[Any]) -> bool:
    """Return True if the buffers among the parts of a file are what was written."""
    return bool(_sum_of(parts[1:]) == _HEAD.unpack_from(content)[3])


def head_is_whole(descriptor: int, size_bytes: int) -> bool:
    """Return True if a file has this size, and its head and pickle are what was written.

    Raises:
        OSError: It cannot be read.
    """
    if os.fstat(descriptor).st_size != size_bytes:
        return False
    head = bytearray(min(HEAD_BYTES, size_bytes))
    if len(head) < _HEAD.size + 8 or not read_all(descriptor, head):
        return False
    magic, number, head_sum, _ = _HEAD.unpack_from(head)
    end = _HEAD.size + 8 * number + int.from_bytes(head[_HEAD.size : _HEAD.size + 8], "little")
    if magic != MAGIC or end > size_bytes:
        return False
    if end > len(head):
        head = bytearray(end)
        if not read_all(descriptor, head):
            return False
    return bool(head_sum == _sum_of_head(head, number, end - _HEAD.size - 8 * number))


def _blocks(parts: Sequence[memoryview]) -> tuple[list[Any], int]:
    """Return what is written, and its size."""
    sizes = pack(f"<{len(parts)}Q", *map(len, parts))
    head = _HEAD.pack(MAGIC, len(parts), checksum(parts[0], checksum(sizes)), _sum_of(parts[1:]))
    blocks: list[Any] = [head, sizes]
    position = len(head) + len(sizes)
    for number, part in enumerate(parts):
        padding = -position % ALIGNMENT if number else 0
        blocks += [bytes(padding), part]
        position += padding + len(part)
    return [block for block in blocks if len(block)], position


def _sum_of_head(content: Any, number: int, pickle_bytes: int) -> int:
    """Return the checksum of sizes and pickle in a file with so many parts."""
    begin = _HEAD.size + 8 * number
    view = memoryview(content)
    return checksum(view[begin : begin + pickle_bytes], checksum(view[_HEAD.size : begin]))


def _sum_of(buffers: Sequence[Any]) -> int:
    total = 0
    for buffer in buffers:
        total = checksum(buffer, total)
    return total
