"""Steps with files that systems take in different ways: on Windows. `file_access_unix.py` has the same names.

A file that is open cannot be removed, unless all who have it open allow that; and one that is mapped cannot be removed at all, not
by its own process either. But both can be renamed:

    replace, remove ─► the old file gets another name, in a folder for such ─► it is removed there, if possible
                                                                            └─► else by the next script that opens the cache
"""

from __future__ import annotations

import _winapi
import msvcrt
import os
import sys
import time
from contextlib import contextmanager, suppress

from pympipool._util.platform import OPEN_FLAGS

assert sys.platform == "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["is_removed", "lock", "open_to_read", "read_all", "remove", "replace", "unlocked", "write_all"]

_SHARE_ALL = 0x1 | 0x2 | 0x4
"""FILE_SHARE_READ, FILE_SHARE_WRITE and FILE_SHARE_DELETE, which is needed for renaming, too."""

_NORMAL = 0x80

_SHARING_VIOLATION = 32

_REMOVED = "removed."

BYTES_MAX = 1 << 30
"""Number of bytes that are read or written at once: the C library takes 2 GiB - 1."""

REPLACED_MAX = 10
"""How often a file is moved out of the way that another process puts there at the same time."""

REFUSED_MAX = 3
"""How often a file is renamed that no program has open, and that cannot be renamed: for lack of rights, which will not come."""

SCAN_PAUSE_S = 0.02
"""Pause before a file is renamed that another program has open: one that looks for viruses opens what was just written. With each
further try the pause gets longer by as much."""


def open_to_read(path: str) -> int:
    """Open a file, so that others can rename and remove it meanwhile."""
    handle = _winapi.CreateFile(path, _winapi.GENERIC_READ, _SHARE_ALL, 0, _winapi.OPEN_EXISTING, _NORMAL, 0)
    try:
        return msvcrt.open_osfhandle(handle, os.O_RDONLY | OPEN_FLAGS)
    except BaseException:
        _winapi.CloseHandle(handle)
        raise


def read_all(descriptor: int, content: bytearray) -> bool:
    """Fill memory from the begin of a file; return False if the file is shorter."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    left = memoryview(content)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while left:
            count = file.readinto(left[:BYTES_MAX])
            if not count:
                return False
            left = left[count:]
    return True


def write_all(descriptor: int, blocks: list[Any]) -> None:
    """Write some bytes after each other. The list is empty afterwards."""
    while blocks:
        written = os.write(descriptor, memoryview(blocks[0])[:BYTES_MAX])
        if written < len(blocks[0]):
            blocks[0] = memoryview(blocks[0])[written:]
        else:
            blocks.pop(0)


def replace(path: str, new_path: str, folder: str) -> None:
    """Rename a file. One that has the new name is replaced.

    Args:
        path, new_path: The old name, and the new one.
        folder: For what cannot be removed yet.
    """
    for tries in range(1, REPLACED_MAX + 1):
        try:
            os.replace(path, new_path)
            return
        except PermissionError as error:
            failure = error if _is_in_use(error) else _move_away(new_path, folder)
        if failure is not None:
            if tries >= REFUSED_MAX and not _is_in_use(failure):
                raise failure
            time.sleep(tries * SCAN_PAUSE_S)
    os.replace(path, new_path)


def _is_in_use(error: PermissionError) -> bool:
    """Return True if another program has the file open, which it soon closes; False if rights are missing or it is mapped."""
    return error.winerror == _SHARING_VIOLATION


def _move_away(path: str, folder: str) -> PermissionError | None:
    """Remove a file, unless there is none; return why that is not possible."""
    try:
        with suppress(FileNotFoundError):
            remove(path, folder)
    except PermissionError as error:
        return error
    return None


def remove(path: str, folder: str) -> None:
    """Remove a file.

    Args:
        path: The file.
        folder: For what cannot be removed yet.
    """
    other_path = os.path.join(folder, _REMOVED + os.urandom(8).hex())
    try:
        os.rename(path, other_path)
    except FileNotFoundError:  # the folder, or the file
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        os.rename(path, other_path)
    with suppress(OSError):
        os.unlink(other_path)


def is_removed(name: str) -> bool:
    """Return True for the name of a file that `remove` could not remove yet."""
    return name.startswith(_REMOVED)


def lock(_descriptor: int, _path: str) -> bool:
    """Return True: a file that is open like this one cannot be removed. That is its lock, see `unlocked`."""
    return True


@contextmanager
def unlocked(path: str) -> Iterator[None]:
    """Remove a file that another process has left.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The process lives, and has it open.
    """
    os.unlink(path)
    yield
