"""Which MPI library mpi4py loads, and the mpiexec that belongs to it.

    loaded_library()        asks another process what mpi4py loads, so that MPI is not initialised in this one
      -> find_launcher()    finds an mpiexec of the same kind: beside the library, beside Python, or in PATH

A wrong mpiexec causes no error: each rank comes up alone, in a world of size 1. So the kinds are compared before
any process is started, and the worker compares the size of its world with the number of ranks in the request.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from pympipool._util.import_path import import_path
from pympipool._util.platform import MPI_PACKAGE, PROGRAM_SUFFIX
from pympipool._util.subprocesses import run
from pympipool.errors import WorkerStartError

PROBE_TIMEOUT_S = 60.0
"""Seconds that a probe of mpi4py or of an mpiexec may take. An import of mpi4py takes 50 ms, but far longer from the
file system of a busy cluster."""

REMEDY = (
    f"`pip install mpi4py {MPI_PACKAGE}` brings mpi4py together with an MPI library and its mpiexec; on a cluster with"
    " an MPI of its own, load that MPI and `pip install mpi4py`"
)

_PROBE = """
import sys
sys.path[:] = sys.argv[1:]
import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
paths = []
try:
    with open("/proc/self/maps") as maps:
        paths = [line.split(maxsplit=5)[-1].strip() for line in maps if "libmpi" in line]
except OSError:
    import ctypes
    if hasattr(ctypes, "WinDLL"):
        name, kernel = ctypes.create_unicode_buffer(1 << 15), ctypes.WinDLL("kernel32")
        kernel.GetModuleHandleW.restype = ctypes.c_void_p
        for library in map(kernel.GetModuleHandleW, ("impi.dll", "msmpi.dll")):
            if library and kernel.GetModuleFileNameW(ctypes.c_void_p(library), name, len(name)):
                paths.append(name.value)
print(json.dumps([MPI.Get_library_version(), paths[0] if paths else ""]))
"""


class Kind(Enum):
    """Families of MPI. Within a family, each mpiexec can start the ranks of each library and takes the same options."""

    HYDRA = "MPICH"  # and its relatives: Intel MPI, MVAPICH
    OPEN_MPI = "Open MPI"
    MS_MPI = "MS-MPI"  # of Windows


class Library(NamedTuple):
    """An MPI library: the version that it reports, as one line, and the path of its file ("" if unknown)."""

    version: str
    path: str

    @property
    def kind(self) -> Kind:
        """The family that the library belongs to."""
        beginnings = {"Open MPI": Kind.OPEN_MPI, "Microsoft MPI": Kind.MS_MPI}
        return next((kind for begin, kind in beginnings.items() if self.version.startswith(begin)), Kind.HYDRA)


class Launcher(NamedTuple):
    """An mpiexec."""

    path: str
    kind: Kind


_NAMES = {
    Kind.HYDRA: ("mpiexec.hydra", "mpiexec.mpich", "mpiexec"),
    Kind.OPEN_MPI: ("mpiexec.openmpi", "mpirun.openmpi", "mpiexec", "mpirun"),
    Kind.MS_MPI: ("mpiexec",),
}
"""The names of mpiexec in each family. The first are those used where several MPIs are installed side by side, as they
are unambiguous."""

_VERSION_MARKS = {
    Kind.HYDRA: ("hydra", "mpich", "intel(r) mpi", "mvapich"),
    Kind.OPEN_MPI: ("open mpi", "openrte", "prrte"),
    Kind.MS_MPI: ("microsoft mpi",),
}
"""Words in the output of `mpiexec --version` that identify its family, in lower case. That of MS-MPI knows only `-help`."""


def loaded_library() -> Library:
    """Return the MPI library that mpi4py loads in this environment.

    Raises:
        WorkerStartError: mpi4py or an MPI library is missing, or they do not fit each other.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise WorkerStartError(f"workers of several ranks need mpi4py, which is not installed. {REMEDY}")
    settings = tuple(os.environ.get(name, "") for name in ("MPI4PY_LIBMPI", "MPI4PY_MPIABI", "LD_LIBRARY_PATH"))
    return _probe(sys.executable, tuple(import_path()), settings)


@functools.lru_cache(maxsize=8)
def _probe(python: str, path: tuple[str | bytes, ...], _settings: tuple[str, ...]) -> Library:
    """Import mpi4py.MPI, without initialising MPI, in a process of its own, and return the library that it loads.

    The settings are parameters only so that the cache distinguishes them.
    """
    try:
        answer = run([python, "-c", _PROBE, *path], timeout=PROBE_TIMEOUT_S)
        answer.check_returncode()
        version, library = json.loads(answer.stdout.splitlines()[-1])
        return Library(_first_line(version), library)
    except subprocess.CalledProcessError as error:
        last_lines = str(error.stderr).strip().splitlines()[-3:]
        remedy = _link_remedy() if "libmpi.so.12" in str(error.stderr) else None
        raise WorkerStartError(
            f"mpi4py cannot load an MPI library. {remedy or REMEDY}", last_stderr=last_lines
        ) from None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise WorkerStartError(f"cannot find out which MPI library mpi4py loads ({error}). {REMEDY}") from error


def _link_remedy() -> str | None:
    """Return what to do where MPICH is installed, but not as the file that mpi4py's wheels look for; None elsewhere."""
    from ctypes.util import find_library

    name = find_library("mpich")
    return name and (
        f"{name} is installed, and mpi4py's wheel looks for libmpi.so.12: make a link of that name to it in a folder of"
        " LD_LIBRARY_PATH, or compile mpi4py for it: `pip install --no-binary mpi4py mpi4py`"
    )


def _first_line(version: str) -> str:
    r"""Return the name and number from a library's version, which may be pages long.

    Examples:
        >>> _first_line("MPICH Version:      5.0.2\nMPICH Release date: ...")
        'MPICH Version: 5.0.2'
        >>> _first_line("Open MPI v5.0.11, package: Open MPI user@host Distribution, ident: 5.0.11")
        'Open MPI v5.0.11'
    """
    first = version.strip("\0 \n").splitlines()[0]
    return " ".join(first.split(",")[0].split())


def find_launcher(library: Library) -> Launcher:
    """Return the mpiexec that belongs to an MPI library.

    Raises:
        WorkerStartError: There is none; tells which were found instead.
    """
    others: list[str] = []
    for candidate in _candidates(library):
        kind = _kind_of(str(candidate))
        if kind is library.kind:
            return Launcher(str(candidate), kind)
        others.append(f"{candidate} (of {kind.value if kind else 'an unknown MPI'})")
    found = f" (found instead: {', '.join(others)})" if others else ""
    raise WorkerStartError(
        f"mpi4py loads {library.version} ({library.path or 'from an unknown path'}), but no mpiexec that belongs to it"
        f" is beside it, beside {sys.executable} or in PATH{found}. {REMEDY}; where several MPIs are installed,"
        " MPI4PY_LIBMPI=/path/of/libmpi.so chooses one"
    )


def find_any_launcher() -> Launcher:
    """Return the mpiexec of the site: the first in PATH, else one beside Python.

    Raises:
        WorkerStartError: There is none.
    """
    search = map(Path, os.environ.get("PATH", os.defpath).split(os.pathsep))
    for folder in dict.fromkeys([*search, Path(sys.executable).parent]):
        for path in (folder / name for name in ("mpiexec", "mpiexec.hydra", "mpirun")):
            if path.is_file() and os.access(path, os.X_OK) and (kind := _kind_of(str(path))) is not None:
                return Launcher(str(path), kind)
    raise WorkerStartError(
        "there is no mpiexec of MPICH, Intel MPI or Open MPI in PATH, which starts an agent on each host of the job: load"
        " the MPI of this cluster, or `pip install mpi4py mpich`"
    )


def _candidates(library: Library) -> Iterator[Path]:
    """Yield the programs that could be the mpiexec of a library, most likely first."""
    near = [folder / "bin" for folder in list(Path(library.path).parents)[1:4]] if library.path else []
    search = map(Path, os.environ.get("PATH", os.defpath).split(os.pathsep))
    for folder in dict.fromkeys([*near, Path(sys.executable).parent, *search]):
        for name in (f"{name}{PROGRAM_SUFFIX}" for name in _NAMES[library.kind]):
            if (folder / name).is_file() and os.access(folder / name, os.X_OK):
                yield folder / name


@functools.lru_cache(maxsize=32)
def _kind_of(path: str) -> Kind | None:
    """Return the family that an mpiexec reports; None if its output names none."""
    for option in ("--version", "-help"):
        try:
            output = run([path, option], timeout=PROBE_TIMEOUT_S, stderr=subprocess.STDOUT).stdout.lower()
        except (OSError, subprocess.TimeoutExpired):
            return None
        for kind, marks in _VERSION_MARKS.items():
            if any(mark in output for mark in marks):
                return kind
    return None
