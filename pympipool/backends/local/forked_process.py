"""A worker that the forkserver forks, as the master sees it: three pipes, and a request until it is answered.

request ── sent ──> unanswered ── pid ──> forked ── exit code, or the process has ended ──> gone
   ▲                    │
   └── the status pipe has ended without a pid: the forkserver is gone
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from time import monotonic
from typing import BinaryIO, Protocol, cast

from pympipool._util import exit_codes, subprocesses
from pympipool.backends.local.requested_process import RequestedProcess, Requests
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import STATUS

POLL_INTERVAL_S = 0.02
"""Interval at which a worker is checked for which there is no descriptor, while its end is waited for."""

REPORT_TIMEOUT_S = 1.0
"""Seconds that the forkserver may take to report the end of a killed worker; usually it takes milliseconds."""


class Receiver(Protocol):
    """The forkserver, for requests."""

    def send(self, template: bytes, number: int, descriptors: list[int]) -> None:
        """Send a request for a worker and three descriptors, or raise OSError at once."""


class ForkedProcess(RequestedProcess):
    """A worker that the forkserver forks.

    The worker writes its process id to the status pipe, and at its end the forkserver adds the exit code. If the pipe
    ends without the exit code, the forkserver is gone. The worker goes on, and a pidfd shows its end from then on. Its
    exit code stays unknown before Linux 6.15, as only its parent can learn that.

    Args:
        requests: The spawner.
        template: What the worker has in common with others.
        number: Its number.

    Attributes:
        forkserver_is_lost: True for a request that no forkserver will answer. `poll` sends it again. Usually the end of the
            status pipe shows that already, but the process of the forkserver may hang in the kernel, and hold the pipe.

    Raises:
        OSError: There are not enough descriptors.
    """

    def __init__(self, requests: Requests[ForkedProcess], template: bytes, number: int) -> None:
        super().__init__(template)
        self._number = number
        self.host = socket.gethostname()
        self._requests = requests
        pipes: list[tuple[int, int]] = []
        try:
            pipes += (os.pipe() for _ in range(3))
        except BaseException:
            for descriptor in (descriptor for pipe in pipes for descriptor in pipe):
                os.close(descriptor)
            raise
        stdout, stderr, self._status = (reader for reader, _ in pipes)
        self._writers = [writer for _, writer in pipes]  # of stdout and stderr until there is a worker
        for reader in (stdout, stderr, self._status):
            os.set_blocking(reader, False)
        self.stdout = cast(BinaryIO, os.fdopen(stdout, "rb", buffering=0))
        self.stderr = cast(BinaryIO, os.fdopen(stderr, "rb", buffering=0))
        self._pidfd: int | None = None  # of a worker that has outlived its forkserver
        self._outlived_forkserver = False
        self._ended_s: float | None = None  # when its end was seen that the forkserver has not reported
        self.forkserver_is_lost = False

    # ---- the request ----

    def send_to(self, forkserver: Receiver) -> None:
        """Send the request, or raise OSError at once."""
        assert self._request is not None
        forkserver.send(self._request, self._number, self._writers)
        os.close(self._writers.pop())  # of the status pipe: its end shows that the forkserver is gone

    def fail(self, error: WorkerStartError) -> None:
        """Give the request up. The closed status pipe tells the pool."""
        super().fail(error)
        self.close_writers()

    def close_writers(self) -> None:
        """Close the writing ends of the pipes."""
        while self._writers:
            os.close(self._writers.pop())

    def _ask_again(self) -> None:
        with subprocesses.fork_lock:
            try:
                status, writer = os.pipe()
            except OSError as error:
                self._requests.withdraw(self)
                self.fail(WorkerStartError(f"the process that forks workers has ended, and there is no other: {error}"))
                return
            os.set_blocking(status, False)
            os.close(self._status)  # after the new one is open, so that the two are different
            self._status = status
            self._writers.append(writer)
            self.forkserver_is_lost = False
            self._requests.on_lost(self)

    # ---- the worker ----

    def fileno(self) -> int | None:
        return self._pidfd if self._outlived_forkserver else self._status

    def _read_records(self) -> bytes | None:
        if self._status < 0 or self._outlived_forkserver:
            return None
        try:
            return os.read(self._status, 2 * STATUS.size)
        except BlockingIOError:
            if self.forkserver_is_lost and self.pid == 0:
                self._ask_again()
            return None

    def _lose_parent(self) -> None:
        """Watch a worker that has outlived its forkserver."""
        self._outlived_forkserver = True
        self._pidfd = exit_codes.open_pidfd(self.pid)

    def _note_answer(self) -> None:
        self.close_writers()
        self._requests.on_answer(self)

    def _check_process(self) -> None:
        """Notice the end of a worker that no forkserver reports, and end what the worker has started."""
        if self._status < 0 or not (self._outlived_forkserver or self._killed) or self._is_running():
            return
        if not self._outlived_forkserver:
            self._ended_s = self._ended_s or monotonic()
            if monotonic() - self._ended_s < REPORT_TIMEOUT_S:
                return
        code = exit_codes.exit_code_of_zombie(self.pid)
        if code is None:
            code = exit_codes.exit_code_of_reaped(self._pidfd)
        self._exit_code = exit_codes.UNKNOWN if code is None else code
        self.exit_code_is_known = self._exit_code != exit_codes.UNKNOWN
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it has started; its own id may belong to another process by now

    def _is_running(self) -> bool:
        if self._pidfd is None:
            return process_runs(self.pid)
        waiter = select.poll()
        waiter.register(self._pidfd, select.POLLIN)
        return not waiter.poll(0)

    def pending_reason(self) -> str:
        return "" if self.pid else ": the process that forks workers has not answered"

    def wait(self, timeout_s: float | None = None) -> int | None:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while self.poll() is None:
            if deadline is not None and monotonic() >= deadline:
                return None
            waiter = select.poll()
            descriptor = self.fileno()
            if descriptor is not None:
                waiter.register(descriptor, select.POLLIN)
            waiter.poll(POLL_INTERVAL_S * 1000)
        return self._exit_code

    def _withdraw(self) -> None:
        self._requests.withdraw(self)
        self.close_writers()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)  # the process too: right after the fork it does not lead a group yet
            os.killpg(self.pid, number)

    def close(self) -> None:
        self._withdraw()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.stdout.close()
        self.stderr.close()


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
