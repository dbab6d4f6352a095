"""Probe the shared data that processes of pympipool hold on this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pympipool._util.platform import HAS_PROC, OPEN_FLAGS

MARK = b"pmpdata1"
"""First bytes of the memory of shared data (`_core/shared_memory.pyx`)."""

NAMES = ("/memfd:pympipool", "/dev/shm/pmp-")
"""First characters of the names that the system shows for memory of pympipool (`csrc/shm.c`)."""


@dataclass(frozen=True)
class SharedData:
    """Shared data on this host, as far as this user may see them.

    Attributes:
        count: Number of shared objects.
        size: Their bytes of shared memory.
        pids: The processes that hold descriptors of them, the owners among them.
    """

    count: int
    size: int
    pids: tuple[int, ...]


def probe_shared_data() -> SharedData:
    """Probe the shared data of this host."""
    sizes: dict[tuple[int, int], int] = {}
    pids = set()
    for pid, descriptor in _memory_of_pympipool():
        with contextlib.suppress(OSError):  # the process has closed it
            file = os.open(descriptor, os.O_RDONLY | OPEN_FLAGS)
            try:
                if os.pread(file, len(MARK), 0) == MARK:
                    found = os.fstat(file)
                    sizes[found.st_dev, found.st_ino] = found.st_size
                    pids.add(pid)
            finally:
                os.close(file)
    return SharedData(len(sizes), sum(sizes.values()), tuple(sorted(pids)))


def _memory_of_pympipool() -> Iterator[tuple[int, Path]]:
    """Yield the descriptors of memory of pympipool: the process, and the path of the descriptor."""
    for folder in Path("/proc").glob("[0-9]*/fd") if HAS_PROC else ():
        with contextlib.suppress(OSError):  # it is of another user, or has ended
            for descriptor in folder.iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor).startswith(NAMES):
                        yield int(folder.parent.name), descriptor
