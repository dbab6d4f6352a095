"""A worker whose process is a child of the master, on Windows.

    thread of stdout, of stderr ── what the worker prints ──┐
    thread of the process       ── its exit code ───────────┴─> mailbox of the event loop ──> Inbox ──> handlers

Windows can wait for sockets only together with others. So three threads wait for a process and its pipes. They end with
it. The exit code is told after what the pipes have brought.

The child belongs to a job of its own (`jobs_windows.py`), by which it is killed together with all that it has started, and which
ends with this process. It has a console of its own, without a window: Ctrl-C in the user's console does not reach it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, cast

from pympipool._util import subprocesses
from pympipool._util.service_threads import ServiceThread
from pympipool.backends.spawner import WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.inbox import Inbox

assert sys.platform == "win32"

from pympipool.backends.local.jobs_windows import Job  # noqa: E402  not before type checkers know the system

KILLED = 0x70000009
"""Exit code of processes that were killed here. No program ends by itself with it; in messages it is that of SIGKILL."""

READ_BYTES = 1 << 16
"""Most bytes that a thread reads from a pipe at once."""

OUTPUT_TIMEOUT_S = 1.0
"""Seconds that the end of a process waits for its pipes: one that it has started may have them open."""

_CREATE_NO_WINDOW = 0x08000000
_CREATE_NEW_PROCESS_GROUP = 0x00000200


class WindowsProcess(WorkerProcess):
    """A command that runs as a worker's process.

    Args:
        command: Program and arguments.
        environment: The whole environment of the process.
        cwd: The folder that it runs in; None: the master's.
        call: Has a function called in the thread of the event loop.

    Raises:
        WorkerStartError: The system cannot start the command.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None,
        call: Callable[[Callable[[], None]], object],
    ) -> None:
        self._call = call
        self._exit_code: int | None = None
        self._ended = Inbox()
        try:
            self._job = Job()
        except OSError as error:
            raise WorkerStartError(f"cannot start a worker: Windows has no job object for it: {error}") from error
        self._process = self._start(command, environment, cwd)
        self.pid = self._process.pid
        self.host = socket.gethostname()
        pipes = [_Pipe(cast(BinaryIO, pipe), call) for pipe in (self._process.stdout, self._process.stderr)]
        self.stdout, self.stderr = (cast(BinaryIO, pipe.inbox) for pipe in pipes)
        threads = [ServiceThread(f"pympipool_pipe_{self.pid}", pipe.run, may_wait=True) for pipe in pipes]
        threads.append(ServiceThread(f"pympipool_end_{self.pid}", partial(self._wait, threads[:]), may_wait=True))
        try:
            for thread in threads:
                thread.start()
        except (RuntimeError, MemoryError) as error:  # no more threads
            for pipe, thread in zip(pipes, threads, strict=False):
                if not thread.is_alive():
                    pipe.close()
            self.close()
            raise WorkerStartError(f"cannot start a worker: {error}") from error

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None
    ) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] | None = None
        command, environment = without_launcher(command, environment)
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=cwd,
                creationflags=_CREATE_NO_WINDOW | _CREATE_NEW_PROCESS_GROUP,
            )
            self._job.add(int(cast(Any, process)._handle))
        except (OSError, ValueError) as error:
            if process is not None:
                subprocesses.end(process)
            self._job.close()
            raise WorkerStartError(subprocesses.start_failure(command[0], cwd, error)) from error
        return process

    def fileno(self) -> int | None:
        """Return None: a process of Windows has no descriptor."""
        return None

    def waitable(self) -> Inbox:
        """Return what becomes readable at the end, in the thread of the event loop."""
        return self._ended

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs or its last output is on its way."""
        return self._exit_code

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None on timeout."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return exit_code_of(self._process.wait(timeout_s))
        return None

    def terminate(self) -> None:
        """End the process and what it has started: Windows has no way to ask for that."""
        self.kill()

    def kill(self) -> None:
        """Kill the process and what it has started, even after its own end. Does nothing after `close`."""
        self._job.kill(KILLED)

    def close(self) -> None:
        """Release the process, and kill what is left of its job."""
        self._job.close()
        subprocesses.reap_later(self._process)
        self._ended.close()
        self.stdout.close()
        self.stderr.close()

    # ---- the thread of the process ----

    def _wait(self, readers: Sequence[threading.Thread]) -> None:
        code = exit_code_of(self._process.wait())
        for reader in readers:
            reader.join(OUTPUT_TIMEOUT_S)
        self._call(partial(self._note_end, code))

    def _note_end(self, code: int) -> None:
        self._exit_code = code
        self._ended.end()


def without_launcher(command: Sequence[str], environment: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return a command and its environment for the interpreter itself, in place of the program that starts it.

    In a virtual environment python.exe is such a program: it starts that of the installation, and stays. The variable tells that
    one which environment it belongs to, as for the processes of multiprocessing (https://github.com/python/cpython/issues/79978).
    """
    python, installed = sys.executable, getattr(sys, "_base_executable", "")
    is_launcher = sys.prefix != sys.base_prefix and os.path.normcase(python).startswith(
        os.path.join(os.path.normcase(sys.prefix), "")
    )
    if not is_launcher or not installed or command[0] != python:
        return command, environment
    return [installed, *command[1:]], {**environment, "__PYVENV_LAUNCHER__": python}


class _Pipe:
    """Reads a pipe in a thread, as far as the reader of its inbox keeps up."""

    def __init__(self, pipe: BinaryIO, call: Callable[[Callable[[], None]], object]) -> None:
        self._pipe = pipe
        self._call = call
        self._may_read = threading.Event()
        self._may_read.set()
        self.inbox = Inbox(self._pause)

    def _pause(self, is_on: bool) -> None:
        if is_on:
            self._may_read.clear()
        else:
            self._may_read.set()

    def close(self) -> None:
        """Close the pipe, which no thread reads."""
        self._pipe.close()

    def run(self) -> None:
        """Read until the pipe ends. Close it here: while a thread reads, no other may."""
        with contextlib.suppress(OSError, ValueError), self._pipe:
            while data := os.read(self._pipe.fileno(), READ_BYTES):
                self._call(partial(self.inbox.put, data))
                self._may_read.wait()
        self._call(self.inbox.end)


def exit_code_of(code: int) -> int:
    """Return an exit code of Windows as the pool knows them: -9 of a process that was killed here."""
    return -9 if code == KILLED else code
