"""Removes the files that killed MPI ranks leave in /dev/shm.

An MPI library creates a file in /dev/shm for the memory that its ranks share, and removes the file in MPI_Finalize. A
rank that is ready has removed it already (see `worker/mpi.py`). A rank that is killed in MPI_Init leaves it behind, and
with it megabytes of memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

_FOLDER = Path("/dev/shm")
_PREFIXES = ("mpich_shm_", "ucx_shm_posix_", "sm_segment.", "vader_segment.")  # MPICH, UCX, Open MPI 5 and 4

SETTLE_S = 0.2
"""Seconds to wait before a file without a mapping counts as stale: a process may have created it and not mapped it
yet."""


def remove_stale_shm(since_s: float) -> None:
    """Remove the files of MPI libraries that a job of this user left: younger than since_s and mapped by no process.

    Takes `SETTLE_S` if there are any such files.

    Args:
        since_s: The start of the job, as `time.time()`.
    """
    if sys.platform != "linux":
        return
    found = [path for path in _own_files() if _created_s(path) >= since_s - 1]
    if not found:
        return
    time.sleep(SETTLE_S)
    mapped = _mapped_files()
    for path in found:
        if str(path) not in mapped:
            with contextlib.suppress(OSError):
                path.unlink()


def _own_files() -> list[Path]:
    files = []
    with contextlib.suppress(OSError):
        for path in _FOLDER.iterdir():
            with contextlib.suppress(OSError):
                if path.name.startswith(_PREFIXES) and path.stat().st_uid == os.geteuid():
                    files.append(path)
    return files


def _created_s(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except OSError:
        return 0.0


def _mapped_files() -> set[str]:
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            for line in maps.read_text().splitlines():
                if str(_FOLDER) in line:
                    mapped.add(line.split(maxsplit=5)[-1])
    return mapped
