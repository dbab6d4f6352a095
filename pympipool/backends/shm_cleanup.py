"""What an MPI job leaves in /dev/shm when its ranks are killed, and its removal.

An MPI library names the memory that its ranks share, and removes the name when it is finalised. A rank that is ready has
removed it before (see `worker/mpi.py`); one that is killed in MPI_Init leaves it, megabytes and all.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

_FOLDER = Path("/dev/shm")
_PREFIXES = ("mpich_shm_", "ucx_shm_posix_", "sm_segment.", "vader_segment.")  # MPICH, UCX, Open MPI 5 and 4

SETTLED_S = 0.2
"""A file may be younger than the mapping that its maker is about to make."""


def remove_leftovers(since_s: float) -> None:
    """Removes the files of MPI libraries that are of this user, younger than since_s and mapped by no process.

    Waits for `SETTLED_S` if there are any.

    Args:
        since_s: When the job was started, `time.time()`.
    """
    if sys.platform != "linux":
        return
    found = [path for path in _own_files() if _made_s(path) >= since_s - 1]
    if not found:
        return
    time.sleep(SETTLED_S)
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


def _made_s(path: Path) -> float:
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
