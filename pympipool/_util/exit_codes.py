"""Exit codes of children that this process cannot wait for any more.

A program that ignores SIGCHLD, or that waits for all its children itself, takes the exit codes of the workers away.
`waitid` then fails, and `subprocess` reports 0 for a child that has crashed. Since Linux 6.15 a pidfd keeps the exit code.
"""

from __future__ import annotations

import os
import struct

from pympipool._util.platform import IS_LINUX

_INFO = struct.Struct("=QQ11Ii")
"""struct pidfd_info of linux/pidfd.h: the mask, 12 fields about the process, its wait status."""

_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
"""PIDFD_GET_INFO."""

_HAS_EXIT = 1 << 3
"""PIDFD_INFO_EXIT, in the mask."""

UNKNOWN = 255
"""Takes the place of an exit code that cannot be found out: a process that may have failed."""


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where that is not possible."""
    try:
        return os.pidfd_open(pid) if IS_LINUX else _open_kqueue(pid)
    except (
        OSError,
        ImportError,
    ):  # Linux before 5.3, a sandbox that forbids it, the process is gone already; or Windows
        return None


def _open_kqueue(pid: int) -> int:
    """Return the descriptor of a kqueue whose only event is the end of the process."""
    from select import KQ_EV_ADD, KQ_FILTER_PROC, KQ_NOTE_EXIT, kevent, kqueue  # type: ignore[attr-defined]

    queue = kqueue()
    try:
        queue.control([kevent(pid, KQ_FILTER_PROC, KQ_EV_ADD, KQ_NOTE_EXIT)], 0)
        return os.dup(queue.fileno())  # the object closes its own one
    finally:
        queue.close()


def exit_code_of_reaped(pidfd: int | None) -> int | None:
    """Return the exit code of a process that was waited for (-N: ended by signal N), or `UNKNOWN`.

    Return None if the system is about to reap it, and does not have the exit code yet.
    """
    if pidfd is None:
        return UNKNOWN
    import fcntl  # only here: Windows has none

    info = bytearray(_INFO.size)
    struct.pack_into("=Q", info, 0, _HAS_EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # Linux before 6.15
        return UNKNOWN
    mask, *_, wait_status = _INFO.unpack(info)
    return os.waitstatus_to_exitcode(wait_status) if mask & _HAS_EXIT else None


def exit_code_of_zombie(pid: int) -> int | None:
    """Return the exit code of a process that has ended, and that its parent has not waited for; None if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *_, wait_status = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return os.waitstatus_to_exitcode(int(wait_status)) if state == b"Z" else None


def process_state(pid: int) -> str:
    """Return the state of a process, as `ps` shows it: "D" for one that waits in the kernel; "?" if unknown."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][:1]
    except OSError:
        return "?"
