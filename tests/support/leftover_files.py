"""Files that pympipool, or an MPI library, has left in folders that all programs use.

Other programs, another MPI job or a second run of the tests put files there too, at any moment. So a file counts as
left behind only if its name is one that pympipool or an MPI library gives, it belongs to this user, and no living
process uses it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pympipool._util.platform import IS_WINDOWS
from support.processes import ENDED_S

SHARED_MEMORY = Path("/dev/shm")

_SHARED_MEMORY_NAMES = ("pmp-", "mpich_shm_", "ucx_shm_", "sm_segment.", "vader_segment.")
"""How names in /dev/shm begin: of pympipool, MPICH, UCX, Open MPI 5 and 4."""

_TEMPORARY_NAMES = ("pympipool", "hydra", "mpich", "ompi", "openmpi", "prte", "pmix")


def shared_memory_files() -> set[Path]:
    """Return the files in /dev/shm that may be ours."""
    return _files(SHARED_MEMORY, _SHARED_MEMORY_NAMES)


def temporary_files() -> set[Path]:
    """Return the entries of the folder for temporary files that may be ours."""
    return _files(Path(tempfile.gettempdir()), _TEMPORARY_NAMES)


def _files(folder: Path, beginnings: tuple[str, ...]) -> set[Path]:
    found = set()
    if IS_WINDOWS:  # which has no such folder, and MPI libraries are not there
        return found
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.name.lower().lstrip(".").startswith(beginnings) and path.lstat().st_uid == os.geteuid():
                    found.add(path)
    return found


def forgotten_files(look: Callable[[], set[Path]], before: set[Path], timeout_s: float = ENDED_S) -> set[Path]:
    """Return the new files that stay although no process uses them; to be called when our processes have ended.

    Files that appear later are of others: ours are there when the processes that make them have ended.
    """
    left = look() - before
    deadline_s = time.monotonic() + timeout_s
    while left := _unused({path for path in left if path.exists()}):
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.05)
    return left


def _unused(paths: set[Path]) -> set[Path]:
    """Return those that no process maps, has open, or names in its environment or command line."""
    for process in Path("/proc").glob("[0-9]*"):
        if not paths:
            break
        text = b"\n".join(_read(process / name) for name in ("maps", "environ", "cmdline"))
        opened = _opened(process)
        paths = {path for path in paths if os.fsencode(path) not in text and str(path) not in opened}
    return paths


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _opened(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(process / "fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(descriptor))
    return found
