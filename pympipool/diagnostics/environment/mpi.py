"""Probe the MPI library that mpi4py loads, and the mpiexec that starts its ranks on this machine."""

from __future__ import annotations

import filecmp
import importlib.util
import shutil
from dataclasses import dataclass

from pympipool.backends.mpi_library import find_launcher, loaded_library
from pympipool.errors import WorkerStartError


@dataclass(frozen=True)
class Mpi:
    """The MPI library and its launcher, for functions on several cores.

    Attributes:
        installed: True if mpi4py is installed.
        version: Version string of the MPI library that mpi4py loads; None if it loads none.
        path: File of the library; None if unknown.
        kind: Family of the library, "MPICH" (with Intel MPI and MVAPICH) or "Open MPI".
        mpiexec: Launcher that belongs to the library, so that the ranks it starts find each other; None if there is
            none.
        mpiexec_in_path: First mpiexec in PATH.
        another_in_path: True if that is another program than `mpiexec`. MPICH has the same one under two names.
        error: Reason why functions on several cores cannot run, with a remedy; None if they can.
    """

    installed: bool = False
    version: str | None = None
    path: str | None = None
    kind: str | None = None
    mpiexec: str | None = None
    mpiexec_in_path: str | None = None
    another_in_path: bool = False
    error: str | None = None


def probe_mpi() -> Mpi:
    """Probe mpi4py, its MPI library and its mpiexec."""
    installed, in_path = importlib.util.find_spec("mpi4py") is not None, shutil.which("mpiexec")
    try:
        library = loaded_library()
    except WorkerStartError as error:
        return Mpi(installed, mpiexec_in_path=in_path, error=str(error))
    known = (installed, library.version, library.path or None, library.kind.value)
    try:
        mpiexec = find_launcher(library).path
    except WorkerStartError as error:
        return Mpi(*known, mpiexec_in_path=in_path, error=str(error))
    return Mpi(*known, mpiexec=mpiexec, mpiexec_in_path=in_path, another_in_path=_is_another(in_path, mpiexec))


def _is_another(in_path: str | None, mpiexec: str) -> bool:
    try:
        return in_path is not None and not filecmp.cmp(in_path, mpiexec, shallow=False)
    except OSError:  # one of the two may be run, and not be read
        return in_path != mpiexec
