"""Workers of one process on this host, forked from a warm template (see `pympipool.worker.forkserver`).

    ForkserverSpawner ── order, ends of three pipes ──> template ── fork ──> worker

A few milliseconds a worker, where a fresh interpreter takes ten times as long. The template is started with
the first order, and again should it ever be gone; it ends when the spawner closes its socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from array import array
from time import monotonic
from typing import BinaryIO, cast

from pympipool._util import subprocesses
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import STATUS, encode_frame

PID_WAIT_S = 10.0
"""How long to wait for the pid of a worker that is to be killed while it is being forked."""


class ForkserverSpawner(Spawner):
    """Has workers forked from a template process."""

    def __init__(self) -> None:
        self._command = program_command("pympipool.worker.forkserver")
        self._template: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """WorkerConfig a worker; does not wait until it is forked."""
        if order.ranks != 1:
            raise ValueError(f"a forked worker has 1 rank, not {order.ranks}; several need MpiexecSpawner")
        try:
            return self._order(order)
        except ConnectionError:
            self.close()  # the template is gone; a second one is the last try
        try:
            return self._order(order)
        except OSError as error:
            raise WorkerStartError(f"the process that forks workers does not start: {error}") from error

    def _order(self, order: LaunchRequest) -> ForkedProcess:
        environment = worker_environment(order)
        master = self._socket or self._start_template(environment)
        with subprocesses.fork_lock:  # until the writing ends are closed here
            pipes: list[tuple[int, int]] = []
            try:
                pipes += (os.pipe() for _ in range(3))
                frame = encode_frame((environment, order.cwd or _current_folder()))
                descriptors = array("i", [writer for _, writer in pipes])
                sent = master.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
                master.sendall(frame[sent:])
            except BaseException:
                for reader, _ in pipes:
                    os.close(reader)
                raise
            finally:
                for _, writer in pipes:
                    os.close(writer)
        return ForkedProcess(*(reader for reader, _ in pipes))

    def _start_template(self, environment: dict[str, str]) -> socket.socket:
        try:
            self._template, self._socket = subprocesses.popen_with_socket(
                self._command, environment, "PYMPIPOOL_TEMPLATE"
            )
        except OSError as error:
            raise WorkerStartError(f"the process that forks workers does not start: {error}") from error
        return self._socket

    def close(self) -> None:
        """Ends the template; its workers go on."""
        self.after_fork_in_child()
        if self._template is not None:
            self._template.wait()
            self._template = None

    def after_fork_in_child(self) -> None:
        """Lets go of the template; in a forked child, where it is not ours to wait for."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _current_folder() -> str | None:
    """Where the master is now, which may be elsewhere than when the template was started; None when it is removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


class ForkedProcess(WorkerProcess):
    """A worker that the template forks; known by its pipes.

    The status pipe brings its pid and then its exit code; its end without these means that the template is gone.
    """

    def __init__(self, stdout: int, stderr: int, status: int) -> None:
        self.pid = 0  # until the template says
        self.host = socket.gethostname()
        for descriptor in (stdout, stderr, status):
            os.set_blocking(descriptor, False)
        self.stdout = cast(BinaryIO, os.fdopen(stdout, "rb", buffering=0))
        self.stderr = cast(BinaryIO, os.fdopen(stderr, "rb", buffering=0))
        self._status = status
        self._exit_code: int | None = None
        self._received = b""

    def fileno(self) -> int | None:
        return self._status

    def poll(self) -> int | None:
        if self._exit_code is None and self._status >= 0:
            self._look()
        return self._exit_code

    def _look(self) -> None:
        try:
            data = os.read(self._status, 2 * STATUS.size)
        except BlockingIOError:
            return
        self._received += data
        if len(self._received) >= STATUS.size:
            (self.pid,) = STATUS.unpack(self._received[: STATUS.size])
        if len(self._received) == 2 * STATUS.size:
            (self._exit_code,) = STATUS.unpack(self._received[STATUS.size :])
        elif not data:
            self._signal(signal.SIGKILL)
            self._exit_code = -signal.SIGKILL

    def wait(self, timeout_s: float | None = None) -> int | None:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while self.poll() is None:
            left_s = None if deadline is None else deadline - monotonic()
            if left_s is not None and left_s <= 0:
                return None
            self._wait_for_status(left_s)
        return self._exit_code

    def _wait_for_status(self, timeout_s: float | None) -> None:
        waiter = select.poll()
        waiter.register(self._status, select.POLLIN)
        waiter.poll(None if timeout_s is None else timeout_s * 1000)

    def terminate(self) -> None:
        self._signal_if_alive(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_if_alive(signal.SIGKILL)

    def _signal_if_alive(self, number: int) -> None:
        if self.poll() is None and self.pid == 0:
            self._wait_for_status(PID_WAIT_S)
        if self.poll() is None:  # else the process id may belong to somebody else by now
            self._signal(number)

    def _signal(self, number: int) -> None:
        if self.pid <= 0:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)  # by itself too: it is no group yet in the first moment after the fork
            os.killpg(self.pid, number)

    def close(self) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        self.stdout.close()
        self.stderr.close()
