"""The system that pympipool runs on. No other module asks which one it is: they ask for what it has, by the names below.

Where the systems differ by more than a line, an interface has a module for each of them: `transport/local_unix.py` and
`local_windows.py`, and so on. Modules whose names end like that run on their systems only.
"""

from __future__ import annotations

import os
import sys
from time import sleep

from pympipool._util.cmodules import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IS_LINUX = sys.platform == "linux"
IS_MACOS = sys.platform == "darwin"
IS_WINDOWS = sys.platform == "win32"

if IS_WINDOWS and sys.version_info < (3, 13):
    raise ImportError(
        f"on Windows pympipool needs Python 3.13, as time.monotonic() is another clock before; this is {sys.version.split()[0]}."
        " Use a later Python, or WSL"
    )

if IS_WINDOWS:
    import _winapi

    close_descriptor = _winapi.CloseHandle  # what stands for a descriptor of shared memory is a handle
else:
    close_descriptor = os.close

HAS_PROC = IS_LINUX
"""Processes, their memory and their sockets are files in /proc, and descriptors can be opened again there."""

HAS_ABSTRACT_SOCKETS = IS_LINUX
"""Unix sockets may have names that are no files."""

HAS_SHM_FOLDER = IS_LINUX
"""Shared memory with a name is a file in /dev/shm."""

LIMITS_BACKLOG = IS_MACOS
"""A Unix socket refuses connections while as many wait there as the system allows (128); others have them wait."""

FORK_IS_SAFE = IS_LINUX
"""Libraries work in a forked process. What macOS's libraries keep running does not survive a fork."""

HAS_LIMITS = not IS_WINDOWS
"""Processes have limits of open files and of processes, which they can read and raise (`resource`)."""

HAS_SIGNALS = not IS_WINDOWS
"""Processes can send each other signals, and block or ignore them."""

HAS_WAITID = hasattr(os, "waitid")
"""Not on macOS before Python 3.13, and not on Windows."""

SELECTED_MAX: int | None = None
"""Most sockets that a thread can wait for: FD_SETSIZE of Python's `select` on Windows. None: as many as there are."""

if IS_WINDOWS:
    SELECTED_MAX = 512

HAS_EPOLL = IS_LINUX
"""`select.epoll` exists: it waits for thousands of descriptors without a look at each of them."""

HAS_INTERFACE_QUERY = IS_LINUX
"""The addresses of network interfaces can be asked for by the `ioctl` of Linux."""

POLL_TELLS_HANG_UP = IS_LINUX
"""`select.poll` tells that the other side has hung up without being asked for data (POLLRDHUP)."""

KEEPALIVE_IDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
"""The option for the seconds after which an idle connection is probed; macOS has its own name for it."""

UNACKNOWLEDGED_LIMIT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""The option for the milliseconds for which sent data may stay unacknowledged; None: there is none."""

DESCRIPTORS = "/proc/self/fd" if IS_LINUX else "/dev/fd"
"""The folder in which the descriptors of this process are files, where there is one."""

SEND_FLAGS: int = getattr(socket, "MSG_NOSIGNAL", 0)
"""Flags for sending: a peer that is gone raises an error, even if the user has set SIGPIPE to end the program."""

RECEIVE_FLAGS: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""Flags for receiving: programs that this process starts do not inherit descriptors that have arrived."""

OPEN_FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
"""Flags for opening files: programs that this process starts do not inherit them, and bytes stay as they are."""

SIGKILL = 9
"""The signal that kills. On Windows, which has none, `os.kill` with this number ends a process with it as exit code."""

MPI_PACKAGE = "mpich"
"""The package of PyPI that brings an MPI library with its mpiexec."""

PROGRAM_SUFFIX = ""
"""What the names of programs end with."""

if IS_WINDOWS:
    MPI_PACKAGE, PROGRAM_SUFFIX = "impi-rt", ".exe"

POLLS_PIPES = not IS_WINDOWS
"""A thread can wait for pipes: `select.poll` takes them."""

load_averages: Callable[[], tuple[float, float, float]] = getattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
"""Return the load of the machine, averaged over 1, 5 and 15 minutes; zeros where the system does not tell."""

yield_core: Callable[[], object] = getattr(os, "sched_yield", lambda: sleep(0))
"""Let another thread have this core, if one waits for it."""

memory_descriptor: Callable[[str], int] | None = getattr(os, "memfd_create", None)
"""Creates a file in memory; None: there are none."""


def usable_cores() -> int:
    """Return the number of cores that this process is bound to; all cores where the system has no such binding."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_fork(
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """Have functions called before and after each fork of this process, where processes can fork."""
    functions = {"before": before, "after_in_parent": in_parent, "after_in_child": in_child}
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**{name: function for name, function in functions.items() if function is not None})


def is_own_file(status: os.stat_result) -> bool:
    """Return True if files that this process makes have the owner of this one.

    On Windows that is so: a worker has the account of its master, and its files have no other owner than the master's.
    """
    return IS_WINDOWS or status.st_uid == os.geteuid()


def need_unix(what: str) -> None:
    """Raise ValueError on Windows, for what pympipool does not have there.

    Args:
        what: The parameter with its value, as the beginning of the message.
    """
    if IS_WINDOWS:
        raise ValueError(
            f"{what}, which pympipool does not have on Windows: leave it out, or run the script in WSL, which is Linux. On Windows,"
            " workers are processes of this machine, and nothing outlives the script"
        )
