"""The MPI library that mpi4py loads, and the mpiexec that starts its ranks on this machine."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass

from pympipool.backends.mpi_library import find_launcher, loaded_library
from pympipool.errors import WorkerStartError


@dataclass(frozen=True)
class Mpi:
    """What functions on several cores have.

    Attributes:
        installed: Whether there is an mpi4py.
        version: The MPI library that mpi4py loads, as it calls itself; None when it loads none.
        path: Its file; None when unknown.
        kind: The family of the library, "MPICH" (with Intel MPI and MVAPICH) or "Open MPI".
        mpiexec: The launcher that belongs to the library, by whose ranks find each other; None when there is none.
        mpiexec_in_path: The mpiexec that a shell would take.
        problem: Why functions on several cores cannot run, and what to do; None when they can.
    """

    installed: bool = False
    version: str | None = None
    path: str | None = None
    kind: str | None = None
    mpiexec: str | None = None
    mpiexec_in_path: str | None = None
    problem: str | None = None


def probe_mpi() -> Mpi:
    """Looks at mpi4py, its MPI library and its mpiexec."""
    installed, in_path = importlib.util.find_spec("mpi4py") is not None, shutil.which("mpiexec")
    try:
        library = loaded_library()
    except WorkerStartError as error:
        return Mpi(installed, mpiexec_in_path=in_path, problem=str(error))
    known = (installed, library.version, library.path or None, library.kind.value)
    try:
        return Mpi(*known, mpiexec=find_launcher(library).path, mpiexec_in_path=in_path)
    except WorkerStartError as error:
        return Mpi(*known, mpiexec_in_path=in_path, problem=str(error))
