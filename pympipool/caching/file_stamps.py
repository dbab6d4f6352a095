"""Notice that a file has changed, without reading it where its time tells that."""

from __future__ import annotations

import os
from hashlib import blake2b
from time import time_ns
from typing import NamedTuple

__all__ = ["Stamp", "read", "renewed", "stamp_of"]

SURELY_OLD_NS = 2_000_000_000
"""Age from which a further change of a file gives it another time: file systems note the time in steps of up to 2 s."""


class Stamp(NamedTuple):
    """What tells a changed file.

    Attributes:
        status: Time, size and number of the file.
        content: The digest of what was read, as long as a change may leave the status as it is; else b"".
        changed_ns: When it was written, or put there with a time of before: nanoseconds since 1970. Times that are still to come
            do not count.
    """

    status: tuple[int, int, int]
    content: bytes = b""
    changed_ns: int = 0


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _status(status: os.stat_result | None) -> tuple[int, int, int]:
    return (0, 0, 0) if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def stamp_of(path: str) -> Stamp:
    """Return the stamp of a file, before it is read."""
    status, now_ns = _stat(path), time_ns()
    if status is None:
        return Stamp(_status(status))
    is_old = abs(now_ns - status.st_mtime_ns) > SURELY_OLD_NS
    changed_ns = max((one for one in (status.st_mtime_ns, status.st_ctime_ns) if one <= now_ns), default=0)
    return Stamp(_status(status), b"" if is_old else _content_digest(path), changed_ns)


def renewed(path: str, stamp: Stamp) -> Stamp | None:
    """Return the stamp that a file has now; None if it has changed."""
    if _status(_stat(path)) != stamp.status:
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
