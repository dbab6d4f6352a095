"""Probe Python, and the processors, memory, limits and GPUs of this process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pympipool
from pympipool._util.cgroups import UNLIMITED, cgroup_folders
from pympipool._util.platform import HAS_LIMITS, HAS_PROC, HAS_SHM_FOLDER, IS_WINDOWS, memory_descriptor
from pympipool.resources import Resources, available_cores, available_devices, bound_cores

PACKAGES = ("cloudpickle", "mpi4py", "numpy", "flux-python")
"""Packages whose versions explain what works and what does not."""

SHARED_MEMORY = Path("/dev/shm")

_THREAD_VARIABLES = tuple(Resources().threads_environment({}))

_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


@dataclass(frozen=True)
class Installation:
    """Python and pympipool.

    Attributes:
        pympipool: Version of pympipool.
        folder: Folder that it was imported from.
        compiled: None if its compiled part can be imported, otherwise the error.
        python: Implementation and version.
        executable: The interpreter.
        environment: The folder of the virtual or conda environment; None outside of both.
        packages: Versions of other packages that matter; None for packages that are not installed. It is "of flux-core"
            for bindings of flux that came with flux-core, which are no package.
    """

    pympipool: str
    folder: str
    compiled: str | None
    python: str
    executable: str
    environment: str | None
    packages: dict[str, str | None]


@dataclass(frozen=True)
class Cores:
    """Number of cores: of the machine, of this process's binding, and usable (within the cgroup's quota)."""

    machine: int
    bound: int
    usable: int


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: of the machine, available now, and the lowest limit of the cgroups (None for no limit)."""

    machine: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class Limits:
    """Limits of this process.

    Attributes:
        open_files: Maximum number of open file descriptors; None for no limit.
        open_files_max: Value that the process may raise that limit to; None for no limit.
        processes: Maximum number of processes of this user, or of this cgroup; None for no limit.
    """

    open_files: int | None
    open_files_max: int | None
    processes: int | None


@dataclass(frozen=True)
class Folder:
    """A folder: its path, size and free space of its file system in bytes, and whether this process can write there."""

    path: str
    size: int
    free: int
    writable: bool


@dataclass(frozen=True)
class Gpus:
    """GPUs.

    Attributes:
        usable: Names of the GPUs that this process may use, as in `variable`.
        variable: Environment variable that says which GPUs a process sees.
        value: Value of the variable; None if it is not set.
        installed: Number of installed GPUs, regardless of the variable.
        models: Their models, as far as the driver tells.
    """

    usable: tuple[str, ...]
    variable: str
    value: str | None
    installed: int
    models: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """This machine, and the part of it that this process may use.

    Attributes:
        shared_memory: /dev/shm, where MPI libraries share memory; None if it does not exist.
        anonymous_memory: True if memory can be shared without /dev/shm: without a name (memfd), or as other systems do.
        temporary: Folder for temporary files; None if no folder is writable.
        temporary_wanted: Value of TMPDIR; None if it is not set.
        thread_variables: Environment variables that tell numerical libraries how many threads to use.
        rank: Environment variable that shows that this process is a rank of an MPI job; None if it is not.
    """

    host: str
    system: str
    cores: Cores
    memory: Memory
    limits: Limits
    shared_memory: Folder | None
    anonymous_memory: bool
    temporary: str | None
    temporary_wanted: str | None
    gpus: Gpus
    thread_variables: dict[str, str]
    rank: str | None


def probe_installation() -> Installation:
    """Probe Python and pympipool."""
    in_environment = sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix
    return Installation(
        pympipool=pympipool.__version__,
        folder=str(Path(pympipool.__file__).parent),
        compiled=_import_error(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=sys.executable,
        environment=sys.prefix if in_environment else None,
        packages={name: _version(name) or _version_of_flux_core(name) for name in PACKAGES},
    )


def _import_error() -> str | None:
    try:
        import_module("pympipool._core.dispatcher")
    except ImportError as error:
        return str(error)
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version_of_flux_core(package: str) -> str | None:
    return "of flux-core" if package == "flux-python" and find_spec("_flux") is not None else None


def probe_machine() -> Machine:
    """Probe this machine."""
    return Machine(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=_cores(),
        memory=_memory(),
        limits=_limits(),
        shared_memory=_folder(SHARED_MEMORY) if HAS_SHM_FOLDER else None,
        anonymous_memory=_has_anonymous_memory(),
        temporary=_temporary_folder(),
        temporary_wanted=os.environ.get("TMPDIR"),
        gpus=_gpus(),
        thread_variables={name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        rank=next((name for name in _RANK_VARIABLES if name in os.environ), None),
    )


def _cores() -> Cores:
    machine = os.cpu_count() or 1
    return Cores(machine, bound_cores(), available_cores())


def _memory() -> Memory:
    if IS_WINDOWS:
        from pympipool.diagnostics.environment.memory_windows import physical_memory

        return Memory(*physical_memory(), None)
    return Memory(
        _meminfo("MemTotal") or _physical_memory(),
        _meminfo("MemAvailable"),
        _lowest_limit("memory", "memory.max", "memory.limit_in_bytes"),
    )


def _meminfo(name: str) -> int | None:
    if not HAS_PROC:
        return None
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
    return None


def _physical_memory() -> int | None:
    """Return the memory of this machine where there is no /proc/meminfo, as on macOS."""
    with contextlib.suppress(OSError, ValueError):  # the system does not know these names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _limits() -> Limits:
    if not HAS_LIMITS:
        return Limits(None, None, None)
    import resource

    soft, hard = (
        None if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    of_user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    of_group = _lowest_limit("pids", "pids.max", "pids.max")
    processes = [limit for limit in (of_user, of_group) if limit not in (None, resource.RLIM_INFINITY)]
    return Limits(soft, hard, min(processes, default=None))


def _lowest_limit(controller: str, name: str, name_in_v1: str) -> int | None:
    """Return the lowest number in the files of this name in this process's cgroups; None if there is no number."""
    limits = []
    for folder, version in cgroup_folders(controller):
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it has "max"
            limits.append(int(Path(folder, name if version == 2 else name_in_v1).read_text()))
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def _folder(path: Path) -> Folder | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return Folder(
        str(path), found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, os.access(path, os.W_OK | os.X_OK)
    )


def _has_anonymous_memory() -> bool:
    if memory_descriptor is None:
        return not HAS_SHM_FOLDER  # other systems have other ways
    try:
        os.close(memory_descriptor("pympipool"))
    except OSError:
        return False
    return True


def _temporary_folder() -> str | None:
    try:
        return tempfile.gettempdir()
    except OSError:
        return None


def _gpus() -> Gpus:
    usable, installed = available_devices(), available_devices({})
    models = set()
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information") if HAS_PROC else ():
        with contextlib.suppress(OSError):
            models |= {
                line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("Model:")
            }
    return Gpus(
        usable.names, usable.variable, os.environ.get(usable.variable), len(installed.names), tuple(sorted(models))
    )
