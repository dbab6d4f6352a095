"""Which process holds a lock of a file, and what the user can do about that. Linux lists all locks in /proc/locks."""

from __future__ import annotations

import os
from contextlib import suppress

from pympipool._util.exit_codes import process_state
from pympipool._util.platform import HAS_PROC, IS_WINDOWS

__all__ = ["describe_holder", "describe_process", "how_to_see_users", "lock_holders"]

COMMAND_MAX = 60
"""Longest text of a command line."""


def lock_holders(*paths: str, kind: str = "WRITE") -> list[int]:
    """Return the processes of this host that hold locks of files.

    Locks of processes in other containers are not known, nor those on other hosts.

    Args:
        paths: Real paths of the files.
        kind: "WRITE" for locks that exclude all others, "READ" for those that exclude only these.
    """
    if not HAS_PROC:
        return []
    inodes = set()
    for path in paths:
        with suppress(OSError):
            inodes.add(os.stat(path).st_ino)
    holders: dict[int, None] = {}
    with suppress(OSError), open("/proc/locks", encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if len(fields) < 8 or fields[1] == "->":  # it waits for the lock
                continue
            pid, inode = int(fields[4]), int(fields[5].rpartition(":")[2])
            if fields[3] != kind or inode not in inodes or pid <= 0:
                continue
            if _has_open(pid, paths):  # another file system may have a file of this number
                holders[pid] = None
    return list(holders)


def _has_open(pid: int, paths: tuple[str, ...]) -> bool:
    """Return True if a process has one of some files open, or that cannot be seen."""
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return True
    for descriptor in descriptors:
        with suppress(OSError):
            if os.readlink(f"{folder}/{descriptor}") in paths:
                return True
    return False


def describe_holder(*paths: str, kind: str = "WRITE") -> str:
    """Return which other process holds a lock of files, and what to do about it; "" if that is not known here.

    Args:
        paths, kind: As of `lock_holders`.
    """
    holders = [pid for pid in lock_holders(*paths, kind=kind) if pid != os.getpid()]
    if not holders:
        return ""
    stopped = [pid for pid in holders if process_state(pid) in ("T", "t")]
    return describe_process((stopped or holders)[0])


def how_to_see_users(path: str) -> str:
    """Return what shows which processes use a file."""
    return f"Resource Monitor (resmon) finds {path!r} among the handles" if IS_WINDOWS else f"lsof {path} shows it"


def describe_process(pid: int) -> str:
    """Return what is known of a process that does not go on, and what to do about it."""
    name = f"process {pid}{_command(pid)}"
    state = process_state(pid)
    if state == "t":
        return f"{name}, which a debugger (process {_tracer(pid)}) has stopped: let it go on there, or end it by kill -9 {pid}"
    if state == "T":
        return f"{name}, which was stopped: let it go on by kill -CONT {pid}, or end it by kill -9 {pid}"
    return f"{name}: look what it waits for (its state is {state}), or end it by kill -9 {pid}"


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        text = " ".join(file.read().decode("utf-8", "replace").replace("\0", " ").split())
        return f" ({text[:COMMAND_MAX]}{'...' if len(text) > COMMAND_MAX else ''})" if text else ""
    return ""


def _tracer(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("TracerPid:"):
                return line.split()[1]
    return "?"
