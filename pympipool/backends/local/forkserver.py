"""Workers of one process on this host, forked by the forkserver (see `pympipool.worker.forkserver`).

    ForkserverSpawner ── request, writing ends of three pipes ──> forkserver ── fork ──> worker
      ForkedProcess   <── pid, later exit code (forked_process.py) ───┴───────────────────┘

A fork takes a few milliseconds, a fresh interpreter ten times as long. The forkserver is a process that has imported
what workers need. It starts with the first request, and ends when the spawner closes its socket.

Nothing here waits for the forkserver. It may be stopped, by a debugger for example, or killed. A forkserver that does
not answer is killed, and each request that it has not answered goes to the next one. Only when several in a row have
not answered any request do the requests fail, with what the last one has written to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections import deque
from time import monotonic

from pympipool._util import subprocesses
from pympipool._util.clocks import RunningClock
from pympipool._util.import_path import import_path
from pympipool._util.service_threads import ServiceLogger
from pympipool.backends.local.forked_process import ForkedProcess
from pympipool.backends.program import environment_snapshot, program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.bootstrap import NUMBER
from pympipool.transport.fork_requests import RequestSender, memory_file
from pympipool.transport.frames import encode_body

LOGGER = ServiceLogger("pympipool.backends")

ANSWER_TIMEOUT_S = 5.0
"""Seconds after which a forkserver that does not answer is replaced; usually it answers in milliseconds."""

FIRST_ANSWER_TIMEOUT_S = 20.0
"""Seconds that the first answer of a forkserver may take: it has modules to import, which takes long on a busy cluster."""

CHECK_INTERVAL_S = 0.2
"""Seconds between two checks of the forkserver while there are unanswered requests."""

FAILURES_MAX = 4
"""Number of forkservers in a row that end without having answered before the waiting requests fail."""

RESTART_DELAY_S = 0.1
"""Delay before another forkserver is started after one that has not answered; doubles with each further one."""

EXIT_TIMEOUT_S = 0.2
"""Seconds that a forkserver may take to end that has closed its connection. Then its exit code is known."""

_STDERR_BYTES = 4096
"""Bytes from the end of the forkserver's stderr that an error quotes."""

_NO_ROOM = (errno.EAGAIN, errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of a request that can be sent later."""


class ForkserverSpawner(Spawner):
    """A spawner whose workers are forked by a forkserver."""

    def __init__(self) -> None:
        self._command = program_command("pympipool.worker.forkserver", "pympipool_fork_server")
        self.helpers = (self,)
        self._environment: dict[str, str] = {}
        self._template = b""  # of the last worker
        self._made_of: object = None  # what it was made of
        self._forkserver: Forkserver | None = None
        self._unsent: deque[ForkedProcess] = deque()
        self._unanswered: dict[ForkedProcess, Forkserver] = {}
        self._silence = RunningClock()  # since the last answer, while there are unanswered requests
        self._failures = 0
        self._next_start_s = 0.0
        self._given_up: tuple[Forkserver | None, WorkerStartError] | None = None

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Request a worker, without waiting until it is forked. If no forkserver starts, the worker ends.

        Raises:
            OSError: There are no descriptors for the worker's pipes.
            ValueError: The worker has several ranks, which need mpiexec.
        """
        if request.ranks != 1:
            raise ValueError(f"a forked worker has 1 rank, not {request.ranks}; several need MpiexecSpawner")
        template = self._template_for(request)
        with subprocesses.fork_lock:  # no fork of another thread may inherit the writing ends
            process = ForkedProcess(self, template, request.number)
            try:
                self._unsent.append(process)
                self._send()
            except BaseException:  # no memory, for example: nothing else would know the worker
                process.kill()
                process.close()
                raise
        return process

    def _template_for(self, request: LaunchRequest) -> bytes:
        """Return what the worker has in common with others: environment, folder, and what to import."""
        own = {name: value for name, value in request.environment.items() if name != NUMBER}
        current = _current_folder()
        made_of = own, environment_snapshot(), request.cwd, current, [*sys.path], request.preload
        if self._made_of != made_of:  # usually many workers start at once
            self._environment = worker_environment(request)
            self._environment.pop(NUMBER, None)
            self._template = encode_body((self._environment, request.cwd or current, import_path(), request.preload))
            self._made_of = made_of
        return self._template

    def check(self) -> float | None:
        """Replace a forkserver that does not answer, and send the requests that could not be sent before."""
        if self._forkserver is not None and self._unanswered:
            limit_s = ANSWER_TIMEOUT_S if self._forkserver.has_answered else FIRST_ANSWER_TIMEOUT_S
            if self._silence.elapsed() > limit_s:
                self._replace(limit_s)
        self._send()
        return CHECK_INTERVAL_S if self._unsent or self._unanswered else None

    # ---- for the processes ----

    def on_answer(self, process: ForkedProcess) -> None:
        """Take note that a worker was forked."""
        forkserver = self._unanswered.pop(process, None)
        if forkserver is not None:
            forkserver.has_answered = True
        self._silence.restart()
        self._failures = 0
        self._send()

    def on_lost(self, process: ForkedProcess) -> None:
        """Send a request again whose status pipe has ended without an answer: its forkserver is gone."""
        forkserver = self._unanswered.pop(process)
        if forkserver is self._forkserver:
            self._replace()
        if self._given_up is not None and forkserver is self._given_up[0]:
            process.fail(self._given_up[1])
            return
        self._unsent.append(process)
        self._send()

    def withdraw(self, process: ForkedProcess) -> None:
        """Forget the request of a worker that is not needed any more."""
        self._unanswered.pop(process, None)
        with contextlib.suppress(ValueError):
            self._unsent.remove(process)

    # ---- the forkserver ----

    def _send(self) -> None:
        """Send as many requests as the forkserver's socket takes; start the forkserver if there is none."""
        while self._unsent and self._is_running():
            assert self._forkserver is not None
            process = self._unsent[0]
            if not self._unanswered:
                self._silence.restart()
            self._unanswered[process] = self._forkserver  # before it is sent: afterwards there may be no memory
            try:
                process.send_to(self._forkserver)
            except BaseException as error:
                del self._unanswered[process]
                if not isinstance(error, OSError):
                    raise
                if error.errno in _NO_ROOM:
                    return
                self._replace()
                continue
            self._unsent.popleft()

    def _is_running(self) -> bool:
        """Return True if there is a forkserver. Start one, unless the last one has failed a moment ago."""
        if self._forkserver is None and monotonic() >= self._next_start_s:
            try:
                self._forkserver = Forkserver(self._command, self._environment)
            except OSError as error:
                self._count_failure(WorkerStartError(f"the process that forks workers does not start: {error}"), None)
        return self._forkserver is not None

    def _replace(self, silent_s: float | None = None) -> None:
        """End the forkserver; the next request starts another one. Its workers go on.

        Args:
            silent_s: Seconds for which it has not answered; None: it has ended, or is about to.
        """
        forkserver, self._forkserver = self._forkserver, None
        assert forkserver is not None
        for process, other in self._unanswered.items():
            process.forkserver_is_lost = process.forkserver_is_lost or other is forkserver
        exit_code, last_stderr = forkserver.end(EXIT_TIMEOUT_S if silent_s is None else 0.0)
        why = "has ended" if silent_s is None else f"has not answered for {silent_s:g} s"
        if forkserver.has_answered:
            LOGGER.warning("the process that forks workers (pid %d) %s, and is replaced", forkserver.pid, why)
        elif silent_s is None:
            reason = "the process that forks workers does not start"
            self._count_failure(WorkerStartError(reason, exit_code=exit_code, last_stderr=last_stderr), forkserver)
        else:
            reason = f"the process that forks workers does not start: it {why}"
            self._count_failure(WorkerStartError(reason, last_stderr=last_stderr), forkserver)

    def _count_failure(self, error: WorkerStartError, forkserver: Forkserver | None) -> None:
        self._failures += 1
        self._next_start_s = monotonic() + RESTART_DELAY_S * 2 ** (self._failures - 1)
        LOGGER.warning("attempt %d of %d: %s", self._failures, FAILURES_MAX, error.reason)
        if self._failures < FAILURES_MAX:
            return
        self._failures = 0
        self._given_up = forkserver, error
        while self._unsent:
            self._unsent.popleft().fail(error)

    def close(self) -> None:
        """End the forkserver; its workers go on."""
        forkserver, self._forkserver = self._forkserver, None
        if forkserver is not None:
            forkserver.end()

    def after_fork_in_child(self) -> None:
        """Close the connection in a forked child, which cannot wait for the forkserver: that is its parent's child."""
        for process in (*self._unsent, *self._unanswered):
            process.close_writers()
        if self._forkserver is not None:
            self._forkserver.close()


class Forkserver:
    """A forkserver as its master sees it.

    Attributes:
        has_answered: It has forked a worker.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.has_answered = False
        self._stderr = memory_file()
        try:
            self._process, self._socket = subprocesses.popen_with_socket(
                command, environment, "PYMPIPOOL_FORKSERVER", stderr=self._stderr
            )
        except BaseException:  # whatever it is, the caller gets it
            self._stderr.close()
            raise
        self._socket.setblocking(False)
        self._requests = RequestSender(self._socket)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, template: bytes, number: int, descriptors: list[int]) -> None:
        """Send a request and the writing ends of the worker's pipes, or raise OSError at once."""
        self._requests.send(template, number, descriptors)

    def end(self, grace_s: float = 0.0) -> tuple[int | None, list[str]]:
        """Kill it; return its exit code and the last lines of its stderr.

        Args:
            grace_s: Seconds that it has to end by itself before.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        subprocesses.end(self._process)
        size = os.fstat(self._stderr.fileno()).st_size
        text = os.pread(self._stderr.fileno(), _STDERR_BYTES, max(size - _STDERR_BYTES, 0))
        self.close()
        return self._process.returncode, [line for line in text.decode(errors="replace").splitlines() if line.strip()]

    def close(self) -> None:
        """Close the connection; the forkserver ends if it is not stopped."""
        self._socket.close()
        self._stderr.close()


def _current_folder() -> str | None:
    """Return the master's current folder, which may have changed since the forkserver's start; None if removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
