"""Notice that a file has changed, without reading it where its time tells that."""

from __future__ import annotations

import os
from hashlib import blake2b
from time import time
from typing import NamedTuple

__all__ = ["Stamp", "read", "renewed", "stamp_of"]

SURELY_OLD_S = 2.0
"""Age from which a further change of a file gives it another time: file systems note the time in steps of up to 2 s."""


class Stamp(NamedTuple):
    """What tells a changed file.

    Attributes:
        status: Time, size and number of the file.
        content: The digest of what was read, as long as a change may leave the status as it is; else b"".
    """

    status: tuple[int, int, int]
    content: bytes = b""


def _status(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def stamp_of(path: str) -> Stamp:
    """Return the stamp of a file, before it is read."""
    status = _status(path)
    is_old = abs(time() - status[0] / 1e9) > SURELY_OLD_S
    return Stamp(status, b"" if is_old else _content_digest(path))


def renewed(path: str, stamp: Stamp) -> Stamp | None:
    """Return the stamp that a file has now; None if it has changed."""
    if _status(path) != stamp.status:
        return None
    if not stamp.content:
        return stamp
    now = stamp_of(path)  # before it is read again
    return now if now.status == stamp.status and _content_digest(path) == stamp.content else None


def read(path: str) -> bytes | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _content_digest(path: str) -> bytes:
    return blake2b(read(path) or b"", digest_size=20).digest()
