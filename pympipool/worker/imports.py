"""What workers tell of the modules that calls import, and how a process imports them before it forks workers.

See preloading.py.
"""

from __future__ import annotations

import contextlib
import os
import sys

from pympipool._util.platform import SEND_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

LEARNED_MODULES_MIN = 20
"""Number of modules that a call must have imported to be worth a preloaded process. Fewer take a few milliseconds."""

REPORT_MAX_BYTES = 150_000
"""Size limit of the report of a worker, which must fit into the buffer of a socket."""

_NEVER = ("mpi4py", "pympipool", "__main__", "__mp_main__")
"""Packages that are never imported before a fork for calls. Ours is imported anyway."""

_OWN = "pympipool.serialization."
"""Prefix of those of our modules that calls need besides what each worker imports: how arrays are pickled, for example."""

_UNSAFE_MAPPINGS = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/infiniband", "/libmpi.", "/libmpich.", "/libcuda.")
"""Parts of the names of files that a process does not map if it can fork safely: devices, MPI libraries."""

_SAFE_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
"""Devices that a process may have open."""


def import_all(names: Sequence[str], *, strict: bool) -> str:
    """Import modules; after each package check that this process can still fork safely.

    Args:
        strict: A module that cannot be imported is a problem. Otherwise it is left out: a call has imported it in a way that
            cannot be repeated.

    Returns:
        The first problem, "name: what it does", or "".
    """
    from importlib import import_module

    before = open_files()
    last = ""
    for name in names:
        root = package_of(name)
        if root == "mpi4py":
            return f"{name}: MPI cannot be used after a fork"
        if last and root != last and (problem := unsafe_to_fork(before)):
            return f"{last}: {problem}"
        last = root
        try:
            import_module(name)
        except BaseException as error:
            if strict:
                return f"{name}: {type(error).__name__}: {error}"
    problem = unsafe_to_fork(before) if last else ""
    return f"{last}: {problem}" if problem else ""


def unsafe_to_fork(files_before: set[str]) -> str:
    """Return what makes a fork of this process unsafe; "" if nothing is known."""
    if len(os.listdir("/proc/self/task")) > 1:
        return "starts a thread, which a fork has not got"
    for file in open_files() - files_before:
        if not file.startswith("/") or (file.startswith("/dev/") and file not in _SAFE_DEVICES):
            return f"opens {file}"
    with open("/proc/self/maps", errors="replace") as mapped:
        maps = mapped.read()
    for part in _UNSAFE_MAPPINGS:
        if part in maps:
            return f"loads {part.strip('/.')}"
    return ""


def open_files() -> set[str]:
    """Return what this process has open, as Linux names it: paths, "socket:[42]", "pipe:[42]"."""
    files = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the folder itself
            files.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return files


def reseed() -> None:
    """Give a forked worker random numbers of its own where a library does not do that itself, as Python's random does."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def report_imports(reporter: socket.socket, number: int, known: frozenset[str]) -> None:
    """Tell the forkserver which modules a call has imported, if they are worth it; nothing if that fails.

    Modules outside the folders of Python and of its packages are not reported: a file of the user may change, and each call
    is to see it as it is.

    Args:
        number: That of the target.
        known: The modules that were imported before the call.
    """
    if len(sys.modules) - len(known) < LEARNED_MODULES_MIN:  # to look at each would copy the pages that modules are on
        return
    folders = _package_folders()
    names = []
    for name, module in list(sys.modules.items()):
        if name not in known and (name.startswith(_OWN) or _is_installed(name, module, folders)):
            names.append(name)
    report = "\n".join([str(number), *names]).encode()
    if len(names) >= LEARNED_MODULES_MIN and len(report) <= REPORT_MAX_BYTES:
        with contextlib.suppress(OSError):
            reporter.send(report, SEND_FLAGS)


def _is_installed(name: str, module: object, folders: tuple[str, ...]) -> bool:
    """Return True if a module belongs to Python or to an installed package."""
    if package_of(name) in _NEVER:
        return False
    origin = getattr(getattr(module, "__dict__", {}).get("__spec__"), "origin", None)
    return isinstance(origin, str) and origin.startswith(folders)


def _package_folders() -> tuple[str, ...]:
    """Return the folders of the standard library and of installed packages."""
    import site

    folders = [os.path.dirname(os.__file__), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return tuple(folder + os.sep for folder in folders)


def package_of(name: str) -> str:
    """Return the name of the package that a module belongs to."""
    return name.partition(".")[0]
