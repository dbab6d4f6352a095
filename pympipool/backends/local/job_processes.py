"""The processes of an MPI job, as /proc shows them: mpiexec, its agents, and the ranks.

While mpiexec runs, all others are found below it. Afterwards their environment shows to which job they belong. Where there is
no /proc, as on macOS, `ps` shows the former, and nothing the latter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection
from pathlib import Path
from time import monotonic, sleep

from pympipool._util.subprocesses import run

_AGENTS = ("hydra_pmi_proxy", "prted", "orted")
"""Names of processes between mpiexec and the ranks. They end when the ranks have ended."""

END_CHECK_S = 0.01
"""Interval between two checks whether the processes of a job have ended."""

PS_LIMIT_S = 5.0
"""Seconds that `ps` may take."""

PROC = Path("/proc")


def end_processes_with(variables: Collection[str], limit_s: float) -> None:
    """End the processes of a job whose mpiexec has ended, and wait for that.

    Ranks are killed. Agents then end by themselves, and clean up; after limit_s they are killed too.

    Args:
        variables: What is in the environment of these processes only; see `processes_with`.
    """
    deadline_s = monotonic() + limit_s
    while pids := processes_with(variables):  # again: an agent may just have started ranks
        is_late = monotonic() > deadline_s
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT if is_agent(pid) and not is_late else signal.SIGKILL)
        if is_late:
            return
        sleep(END_CHECK_S)


def processes_with(variables: Collection[str]) -> list[int]:
    """Return the ids of the processes that were started with all of these variables ("NAME=value")."""
    if not variables:
        return []
    wanted = [b"\0%s\0" % os.fsencode(variable) for variable in variables]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        environment = b"\0" + _read(f"{folder}/environ")
        if all(variable in environment for variable in wanted):
            found.append(int(folder.name))
    return found


def kill_orphans(leader: int) -> None:
    """Kill the processes of a group whose leader, a rank, has ended.

    As long as the group exists, the system gives its id to no other process. A group whose leader is alive is left
    alone: if the leader is a rank, the rank's watchdog ends it together with its group.
    """
    try:
        os.kill(leader, 0)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    except PermissionError:  # the id belongs to a process of another user by now
        pass


def ranks_below(launcher: int) -> list[int]:
    """Return the ids of all processes that mpiexec has started, except its agents."""
    return [pid for pid in _all_below(launcher) if not is_agent(pid)]


def agents_below(launcher: int) -> list[int]:
    """Return the ids of the agents of mpiexec."""
    return [pid for pid in _all_below(launcher) if is_agent(pid)]


def is_agent(pid: int) -> bool:
    """Return True if a process is an agent of an mpiexec."""
    if PROC.is_dir():
        return _read(f"/proc/{pid}/comm").decode(errors="replace").strip() in _AGENTS
    return any(os.path.basename(name) in _AGENTS for name in _ps("-o", "comm=", "-p", str(pid)))


def _all_below(launcher: int) -> list[int]:
    children_of = _children_of if os.path.exists("/proc/thread-self/children") else _children_of_all().get
    below = list(children_of(launcher) or ())
    for parent in below:
        below += children_of(parent) or ()
    return below


def _children_of(parent: int) -> list[int]:
    """Return the children of one process, as the kernel lists them.

    A scan of all processes would take milliseconds, and far longer where other threads keep the interpreter busy: each
    read of a file releases the GIL, and has to wait for it afterwards.
    """
    children: list[int] = []
    with contextlib.suppress(OSError):  # the process has ended meanwhile
        for thread in os.listdir(f"/proc/{parent}/task"):
            children += map(int, _read(f"/proc/{parent}/task/{thread}/children").split())
    return children


def _children_of_all() -> dict[int, list[int]]:
    """Return the children of each process. For systems that do not list the children of one process."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        _, _, fields = _read(f"{folder}/stat").rpartition(b") ")
        if fields:
            children.setdefault(int(fields.split()[1]), []).append(int(folder.name))
    if not PROC.is_dir():
        for line in _ps("-A", "-o", "pid=,ppid="):
            pid, parent = map(int, line.split())
            children.setdefault(parent, []).append(pid)
    return children


def _ps(*options: str) -> list[str]:
    """Return the lines that `ps` prints; none where there is no such program."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return [line.strip() for line in run(["ps", *options], timeout=PS_LIMIT_S).stdout.splitlines()]
    return []


def _read(path: str) -> bytes:
    """Return the content of a file in /proc; empty if its process has ended, or belongs to another user."""
    content = b""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while data := os.read(descriptor, 1 << 16):
                content += data
        finally:
            os.close(descriptor)
    except OSError:
        return b""
    return content
