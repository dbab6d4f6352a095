"""Workers of one process on this host, forked by the forkserver (see `pympipool.worker.forkserver`).

    ForkserverSpawner ── request, writing ends of three pipes ──> forkserver ── fork ──> worker

A fork takes a few milliseconds, a fresh interpreter ten times as long. The forkserver is a process that has imported
what workers need. It starts with the first request, is started again if it dies, and ends when the spawner closes its
socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from array import array
from time import monotonic, sleep
from typing import BinaryIO, cast

from pympipool._util import exit_codes, subprocesses
from pympipool._util.import_path import import_path
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import STATUS, encode_frame

POLL_INTERVAL_S = 0.02
"""Interval at which a worker is checked that has outlived its forkserver, where the system has no pidfd."""

PID_TIMEOUT_S = 10.0
"""Seconds to wait for the process id of a worker that is to be killed while it is being forked."""


class ForkserverSpawner(Spawner):
    """A spawner whose workers are forked by a forkserver."""

    def __init__(self) -> None:
        self._command = program_command("pympipool.worker.forkserver")
        self._forkserver: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Request a worker, without waiting until it is forked.

        Raises:
            WorkerStartError: The forkserver does not start.
            ValueError: The worker has several ranks, which need mpiexec.
        """
        if request.ranks != 1:
            raise ValueError(f"a forked worker has 1 rank, not {request.ranks}; several need MpiexecSpawner")
        try:
            return self._send(request)
        except ConnectionError:
            self.close()  # the forkserver is gone: retry once, with a new one
        try:
            return self._send(request)
        except OSError as error:
            raise WorkerStartError(f"the process that forks workers does not start: {error}") from error

    def _send(self, request: LaunchRequest) -> ForkedProcess:
        environment = worker_environment(request)
        forkserver = self._socket or self._start_forkserver(environment)
        with subprocesses.fork_lock:  # no fork of another thread may inherit the writing ends
            pipes: list[tuple[int, int]] = []
            try:
                pipes += (os.pipe() for _ in range(3))
                frame = encode_frame((environment, request.cwd or _current_folder(), import_path()))
                descriptors = array("i", [writer for _, writer in pipes])
                sent = forkserver.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
                forkserver.sendall(frame[sent:])
            except BaseException:
                for reader, _ in pipes:
                    os.close(reader)
                raise
            finally:
                for _, writer in pipes:
                    os.close(writer)
        return ForkedProcess(*(reader for reader, _ in pipes))

    def _start_forkserver(self, environment: dict[str, str]) -> socket.socket:
        try:
            self._forkserver, self._socket = subprocesses.popen_with_socket(
                self._command, environment, "PYMPIPOOL_FORKSERVER"
            )
        except OSError as error:
            raise WorkerStartError(f"the process that forks workers does not start: {error}") from error
        return self._socket

    def close(self) -> None:
        """End the forkserver; its workers go on."""
        self.after_fork_in_child()
        if self._forkserver is not None:
            self._forkserver.wait()
            self._forkserver = None

    def after_fork_in_child(self) -> None:
        """Close the connection in a forked child, which cannot wait for the forkserver: that is its parent's child."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _current_folder() -> str | None:
    """Return the master's current folder, which may have changed since the forkserver's start; None if removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def process_runs(pid: int) -> bool:
    """Return True while a process with this id runs. A zombie does not: in a container, process 1 may never reap it."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except FileNotFoundError:  # no /proc, as on macOS
        return not os.path.exists("/proc/self/stat")


class ForkedProcess(WorkerProcess):
    """A worker that the forkserver forks, known to the master by its pipes.

    The forkserver writes the worker's process id and later its exit code to the status pipe. If the pipe ends without
    the exit code, the forkserver is gone. The worker goes on, and a pidfd shows its end from then on. Its exit code
    stays unknown before Linux 6.15, as only its parent can learn that.
    """

    def __init__(self, stdout: int, stderr: int, status: int) -> None:
        self.pid = 0  # until the forkserver reports it
        self.host = socket.gethostname()
        for descriptor in (stdout, stderr, status):
            os.set_blocking(descriptor, False)
        self.stdout = cast(BinaryIO, os.fdopen(stdout, "rb", buffering=0))
        self.stderr = cast(BinaryIO, os.fdopen(stderr, "rb", buffering=0))
        self._status = status
        self._pidfd: int | None = None  # of a worker that has outlived its forkserver
        self._outlived_forkserver = False
        self._exit_code: int | None = None
        self._received = b""

    def fileno(self) -> int | None:
        return self._pidfd if self._outlived_forkserver else self._status

    def poll(self) -> int | None:
        if self._exit_code is None and self._status >= 0:
            if not self._outlived_forkserver:
                self._read_status()
            if self._outlived_forkserver:
                self._check_process()
        return self._exit_code

    def _read_status(self) -> None:
        try:
            data = os.read(self._status, 2 * STATUS.size)
        except BlockingIOError:
            return
        self._received += data
        if len(self._received) >= STATUS.size:
            (self.pid,) = STATUS.unpack(self._received[: STATUS.size])
        if len(self._received) == 2 * STATUS.size:
            (self._exit_code,) = STATUS.unpack(self._received[STATUS.size :])
        elif not data and self.pid > 0:
            self._outlived_forkserver = True
            self._pidfd = exit_codes.open_pidfd(self.pid)
        elif not data:
            self._exit_code = -signal.SIGKILL  # it was never forked

    def _check_process(self) -> None:
        """Notice the end of a worker that has outlived its forkserver, and end what it has started."""
        if self._pidfd is not None:
            waiter = select.poll()
            waiter.register(self._pidfd, select.POLLIN)
            runs = not waiter.poll(0)
        else:
            runs = process_runs(self.pid)
        if not runs:
            self._exit_code = exit_codes.exit_code_of_reaped(self._pidfd)
            if self._exit_code is None:  # it is a zombie, for as long as process 1 likes
                self._exit_code = exit_codes.UNKNOWN
            self.exit_code_is_known = self._exit_code != exit_codes.UNKNOWN
            self._signal(signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> int | None:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while self.poll() is None:
            remaining_s = None if deadline is None else deadline - monotonic()
            if remaining_s is not None and remaining_s <= 0:
                return None
            self._wait_for_status(remaining_s)
        return self._exit_code

    def _wait_for_status(self, timeout_s: float | None) -> None:
        descriptor = self.fileno()
        if descriptor is None:
            sleep(POLL_INTERVAL_S)
            return
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        waiter.poll(None if timeout_s is None else timeout_s * 1000)

    def terminate(self) -> None:
        self._signal_if_running(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_if_running(signal.SIGKILL)

    def _signal_if_running(self, number: int) -> None:
        if self.poll() is None and self.pid == 0:
            self._wait_for_status(PID_TIMEOUT_S)
        if self.poll() is None:  # otherwise the process id may belong to another process by now
            self._signal(number)

    def _signal(self, number: int) -> None:
        if self.pid <= 0:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)  # the process too: right after the fork it does not lead a group yet
            os.killpg(self.pid, number)

    def close(self) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.stdout.close()
        self.stderr.close()
