"""Steps with files that systems take in different ways: on Unix. `file_access_windows.py` has the same names.

A file may be renamed, replaced and removed while it is open or mapped.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from pympipool._util.platform import OPEN_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["is_removed", "lock", "open_to_read", "read_all", "remove", "replace", "unlocked", "write_all"]

BLOCKS_MAX = 64
"""Number of blocks that are written at once; Linux takes 1024."""

BYTES_MAX = 1 << 30
"""Number of bytes that are read or written at once: Linux takes a part of more than 2 GiB, and macOS refuses that."""


def open_to_read(path: str) -> int:
    """Open a file, so that others can rename and remove it meanwhile."""
    return os.open(path, os.O_RDONLY | OPEN_FLAGS)


def read_all(descriptor: int, content: bytearray) -> bool:
    """Fill memory from the begin of a file; return False if the file is shorter."""
    left, position = memoryview(content), 0
    while left:
        count = os.preadv(descriptor, [left[:BYTES_MAX]], position)
        if count == 0:
            return False
        left, position = left[count:], position + count
    return True


def write_all(descriptor: int, blocks: list[Any]) -> None:
    """Write some bytes after each other. The list is empty afterwards."""
    while blocks:
        first = blocks[:BLOCKS_MAX]
        if sum(map(len, first)) > BYTES_MAX:
            first = [memoryview(blocks[0])[:BYTES_MAX]]
        written = os.writev(descriptor, first)
        while blocks and written >= len(blocks[0]):
            written -= len(blocks.pop(0))
        if written:
            blocks[0] = memoryview(blocks[0])[written:]


def replace(path: str, new_path: str, _folder: str) -> None:
    """Rename a file. One that has the new name is replaced.

    Args:
        path, new_path: The old name, and the new one.
        _folder: For what cannot be removed yet.
    """
    os.rename(path, new_path)


def remove(path: str, _folder: str) -> None:
    """Remove a file.

    Args:
        path: The file.
        _folder: For what cannot be removed yet.
    """
    os.unlink(path)


def is_removed(_name: str) -> bool:
    """Return False: `remove` leaves no file."""
    return False


def lock(descriptor: int, path: str) -> bool:
    """Lock a file that was just made, until it is closed, in whatever way this process ends.

    Returns:
        False: It was removed meanwhile, as `unlocked` has found it first.

    Raises:
        OSError: Another process has locked it.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return os.path.samestat(os.stat(path), os.fstat(descriptor))


@contextmanager
def unlocked(path: str) -> Iterator[None]:
    """Hold the lock of a file that another process has left.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The process lives.
    """
    descriptor = os.open(path, os.O_RDWR | OPEN_FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
