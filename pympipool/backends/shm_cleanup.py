"""Removes the files that killed MPI ranks leave in /dev/shm, and killed agents of MPICH's mpiexec in /tmp.

An MPI library creates a file in /dev/shm for the memory that its ranks share, and removes the file in MPI_Finalize. A
rank that is ready has removed it already (see `worker/mpi.py`). A rank that is killed in MPI_Init leaves it behind, and
with it megabytes of memory.

An agent of MPICH describes the hardware to its ranks in a file, and removes the file at its end. An agent that is killed,
or whose mpiexec is, leaves it behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from pympipool._util.platform import HAS_SHM_FOLDER

_FOLDER = Path("/dev/shm")
_PREFIXES = ("mpich_shm_", "ucx_shm_posix_", "sm_segment.", "vader_segment.")  # MPICH, UCX, Open MPI 5 and 4

_TOPOLOGY_FILES = "hydra_hwloc_xmlfile_*"
_AGENT = "hydra_pmi_proxy"

CLOCK_MARGIN_S = 1.0
"""Seconds by which the start of an agent and the creation of a file must differ. The clocks of processes and files have
steps of some milliseconds; a step of the system's clock may be larger."""

SETTLE_S = 0.2
"""Seconds to wait before a file without a mapping counts as stale: a process may have created it and not mapped it
yet."""


def remove_stale_shm(since_s: float) -> None:
    """Remove the files of MPI libraries that a job of this user left: younger than since_s and mapped by no process.

    Takes `SETTLE_S` if there are any such files.

    Args:
        since_s: The start of the job, as `time.time()`.
    """
    if not HAS_SHM_FOLDER:
        return
    own = (path for path in _own_files(_FOLDER, "*") if path.name.startswith(_PREFIXES))
    found = [path for path in own if _created_s(path) >= since_s - 1]
    if not found:
        return
    time.sleep(SETTLE_S)
    mapped = _mapped_files()
    for path in found:
        if str(path) not in mapped:
            with contextlib.suppress(OSError):
                path.unlink()


def remove_stale_topology(folder: Path = Path("/tmp")) -> None:
    """Remove this user's descriptions of the hardware that are older than each running agent: theirs have ended.

    The files do not tell whose they are. So one that a younger agent's end leaves is removed by a later call.
    """
    if not HAS_SHM_FOLDER:
        return
    found = _own_files(folder, _TOPOLOGY_FILES)
    first_start_s = min(_starts_of_agents(), default=float("inf")) if found else 0.0
    for path in found:
        if _created_s(path) < first_start_s - CLOCK_MARGIN_S:
            with contextlib.suppress(OSError):
                path.unlink()


def _starts_of_agents() -> list[float]:
    """Return when the running agents of this host were started, as `time.time()`."""
    begin_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    starts = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, fields = file.read_text(errors="replace").rpartition(") ")
            state, *_ = words = fields.split()
            if head.endswith(f"({_AGENT}") and state not in "ZX":
                starts.append(begin_s + int(words[19]) / os.sysconf("SC_CLK_TCK"))
    return starts


def _own_files(folder: Path, pattern: str) -> list[Path]:
    files = []
    with contextlib.suppress(OSError):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if path.lstat().st_uid == os.geteuid():
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
