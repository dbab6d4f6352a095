"""What the tests see of the machine: processes, files, and scripts that run as a user's would.

Every process that a test starts, and what these start in turn, carries a mark in its environment. So what was left behind
is found even when its parent has ended, and is not mixed up with what other people run on the same machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

import pympipool

MARK = "MARK_OF_A_TEST"

SHARED_MEMORY = Path("/dev/shm")

ENDED_S = 60.0
"""How long what should have ended may take to do so. Only what is left for ever takes so long."""

_HELPERS_OF_PYTHON = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that the standard library's pool starts and keeps until the end of the program."""


def new_mark() -> str:
    return uuid.uuid4().hex


def marked_processes(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark, without this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has_mark(process, mark)]


def own_processes(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark, and our own children, whose mark cannot be read when they are zombies."""
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
    """Waits for the processes to end; descriptions of those that have not."""
    deadline_s = time.monotonic() + timeout_s
    while processes := [process for process in processes if not _has_ended(process)]:
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.01)  # who is not our child cannot be waited for
    return [describe(process) for process in processes]


def _has_ended(process: psutil.Process) -> bool:
    """Zombies of others have ended: when they are taken away is the system's matter. Our own we should have taken away."""
    with contextlib.suppress(psutil.NoSuchProcess):
        ended = process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
        return ended or not process.is_running()
    return True


def describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({process.status()}): {' '.join(process.cmdline())[:200]}"
    return f"{process.pid} (ended meanwhile)"


def shared_memory_files() -> set[str]:
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def forgotten_shared_memory(before: set[str], timeout_s: float = ENDED_S) -> set[str]:
    """Files in /dev/shm that are new, that no living process maps, and that stay: those of other people come and go."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        new = _without_mapped(shared_memory_files() - before)
        if not new or time.monotonic() > deadline_s:
            return new
        time.sleep(0.05)


def _without_mapped(names: set[str]) -> set[str]:
    if names:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                names = names - {Path(area.path).name for area in process.memory_maps(grouped=True)}
    return names


# ---- scripts ----


def script_environment(mark: str, **variables: str) -> dict[str, str]:
    """The environment of a script: pympipool can be imported, the tests' own modules cannot."""
    source = str(Path(pympipool.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, MARK: mark, **variables}


def _as_in_a_terminal(*, group: bool) -> None:
    """In the process to be: without the signals that a shell has its background, and nohup its command, ignore."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if group:
        os.setpgrp()


def family() -> list[psutil.Process]:
    """This process and all its descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cores_used(function: Callable[..., object], *args: object) -> float:
    """The processor time that this process and its descendants use while function(*args) runs, in cores."""
    before = {process: seconds_of(process) for process in family()}
    start_s = time.monotonic()
    before[psutil.Process()] = seconds_of(psutil.Process())  # without what looking costs
    function(*args)
    own_s = seconds_of(psutil.Process())
    elapsed_s = time.monotonic() - start_s
    me, *others = family()
    used_s = own_s - before[me] + sum(seconds_of(other) - before.get(other, 0) for other in others)
    return used_s / elapsed_s


def seconds_of(process: psutil.Process) -> float:
    """The processor time that a process has used; 0 when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


class Script:
    """A Python program that runs as a user's would. Ended, with all that it started, at the end of a `with` block.

    Args:
        source: what is in the file.
        folder: where the file is put.
        cwd: where it runs; default: folder.
        command: arguments of the interpreter; default: the name of the file.
        variables: set in its environment.
        group: whether it leads a process group of its own, as programs in a terminal do.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        *,
        cwd: Path | None = None,
        command: list[str] | None = None,
        variables: dict[str, str] | None = None,
        group: bool = False,
    ) -> None:
        self.mark = new_mark()
        self.path = folder / "script.py"
        self.path.write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, *(command or [str(self.path)])],
            cwd=cwd or folder,
            env=script_environment(self.mark, **(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(_as_in_a_terminal, group=group),
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        for process in marked_processes(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.communicate()

    def wait_for_line(self, text: str) -> str:
        """Reads what the script prints up to the line that begins with text; that line's rest."""
        for line in self.process.stdout:
            if line.startswith(text):
                return line[len(text) :].strip()
        raise AssertionError(f"the script ended without printing {text!r}:\n{self.process.stderr.read()}")

    def wait_until_asleep(self) -> None:
        """Waits until the main thread waits for something; for after `wait_for_line`."""
        process = psutil.Process(self.process.pid)
        while process.status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)  # there is no other way to learn of it

    def end(self, timeout_s: float = 150) -> tuple[int, str, str]:
        """Waits for the end; exit code, and what it printed to stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stdout, stderr

    def survivors(self, timeout_s: float = ENDED_S) -> list[str]:
        """The processes of the script that do not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)  # our child: as a zombie that nobody has taken away it would look alive
        return still_alive(marked_processes(self.mark), timeout_s)


def run_script(source: str, folder: Path, **parameters: object) -> str:
    """Runs a script to its end, which must be without error and leave no process; what it printed."""
    with Script(source, folder, **parameters) as script:
        code, stdout, stderr = script.end()
        assert code == 0, f"exit code {code}\n{stdout}\n{stderr}"
        assert script.survivors() == []
    return stdout
