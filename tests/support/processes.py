"""Processes as the tests see them.

Every process that a test starts carries a mark in its environment, and so does every process that those start in
turn. So a process that was left behind is found even when its parent has ended, and it is not mixed up with other
people's processes on the same machine.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable

import psutil

MARK = "MARK_OF_A_TEST"

ENDED_S = 60.0
"""Seconds that a process or thread may take to end. Only one that never ends takes so long."""

_HELPERS_OF_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Modules of helper processes that the pool of the standard library keeps until the program ends."""


def new_mark() -> str:
    return uuid.uuid4().hex


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that carry the mark, without this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has_mark(process, mark)]


def own_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that carry the mark, and our own children: the mark of a zombie cannot be read."""
    children = [child for child in psutil.Process().children(recursive=True) if not _is_helper_of_python(child)]
    return list({*marked_processes(mark), *children})


def _has_mark(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK) == mark and not _is_helper_of_python(process)
    return False


def _is_helper_of_python(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(name in " ".join(process.cmdline()) for name in _HELPERS_OF_PYTHON)
    return False


def still_alive(processes: list[psutil.Process], timeout_s: float = ENDED_S) -> list[str]:
    """Wait for the processes to end, and describe those that have not."""
    deadline_s = time.monotonic() + timeout_s
    while processes := [process for process in processes if not _has_ended(process)]:
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.01)  # a process that is not our child cannot be waited for
    return [describe(process) for process in processes]


def _has_ended(process: psutil.Process) -> bool:
    """Return True if the process has ended. Our own zombies count as alive, because we should have reaped them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        ended = process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
        return ended or not process.is_running()
    return True


def describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    return f"{process.pid} (ended meanwhile)"


def family() -> list[psutil.Process]:
    """Return this process and all its descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cores_used(function: Callable[..., object], *args: object) -> float:
    """Return the CPU time that this process and its descendants use while function(*args) runs, in cores."""
    before = {process: seconds_of(process) for process in family()}
    start_s = time.monotonic()
    before[psutil.Process()] = seconds_of(psutil.Process())  # without the cost of the measurement
    function(*args)
    own_s = seconds_of(psutil.Process())
    elapsed_s = time.monotonic() - start_s
    me, *others = family()
    used_s = own_s - before[me] + sum(seconds_of(other) - before.get(other, 0) for other in others)
    return used_s / elapsed_s


def seconds_of(process: psutil.Process) -> float:
    """Return the CPU time that a process has used; 0 when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def is_alive(pid):
    """Return True if the process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_with(word: str) -> list[psutil.Process]:
    """Return our children that run and have this word in their command lines."""
    return _running_children(lambda child: any(word in argument for argument in child.cmdline()))


def children_named(*names: str) -> list[psutil.Process]:
    """Return our children that run programs with one of these names."""
    return _running_children(lambda child: child.name() in names)


def _running_children(is_wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # another one that has ended meanwhile
            if is_wanted(child) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def child_pids() -> set[int]:
    """Return the process ids of all descendants of this process."""
    return {process.pid for process in psutil.Process().children(recursive=True)}
