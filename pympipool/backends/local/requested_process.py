"""A worker that another process forks on request, as the master sees it: its request until it is answered, and its status.

request ── sent ──> unanswered ── pid ──> forked ── exit code ──> gone
   ▲                    │
   └── the status has ended without a pid: the process that should fork it is gone
"""

from __future__ import annotations

import copy
import signal
from abc import abstractmethod
from typing import Protocol, TypeVar

from pympipool.backends.spawner import WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import RUNNING, STATUS

Process_contra = TypeVar("Process_contra", contravariant=True)


class Requests(Protocol[Process_contra]):
    """The spawner, which sends the requests."""

    def on_answer(self, process: Process_contra) -> None:
        """Take note that the worker was forked, or has ended."""

    def on_lost(self, process: Process_contra) -> None:
        """Send the request again: its receiver is gone."""

    def withdraw(self, process: Process_contra) -> None:
        """Do not send the request any more."""


class RequestedProcess(WorkerProcess):
    """A worker that is forked on request.

    It tells its process id as the first record of its status, and at its end the other process adds the exit code.

    Args:
        request: The body of the request.
    """

    def __init__(self, request: bytes) -> None:
        self.pid = 0  # until the worker reports it
        self._request: bytes | None = request  # None once it is answered
        self._killed = False
        self._exit_code: int | None = None
        self._received = b""

    # ---- what depends on its parent ----

    @abstractmethod
    def _read_records(self) -> bytes | None:
        """Return what has arrived of the status, b"" at its end; None: nothing for now, or it is not read any more."""

    @abstractmethod
    def _ask_again(self) -> None:
        """Have the request sent again: the status has ended before it was answered."""

    @abstractmethod
    def _lose_parent(self) -> None:
        """Go on without the process that has forked the worker: the status has ended, without an exit code."""

    @abstractmethod
    def _check_process(self) -> None:
        """Notice the end of a killed worker whose parent does not report it."""

    @abstractmethod
    def _note_answer(self) -> None:
        """Tell the spawner that the request is answered."""

    @abstractmethod
    def _withdraw(self) -> None:
        """Have the spawner forget the request."""

    @abstractmethod
    def _signal(self, number: int) -> None:
        """Signal a worker that runs."""

    # ---- the same for all ----

    def fail(self, error: WorkerStartError) -> None:
        """Give the request up."""
        self.start_failure = copy.copy(error)
        self._exit_code = 1 if error.exit_code is None else error.exit_code

    def poll(self) -> int | None:
        if self._exit_code is None:
            self._read_status()
        if self._exit_code is None:
            self._check_process()
        return self._exit_code

    def _read_status(self) -> None:
        data = self._read_records()
        if data is None:
            return
        self._received += data
        while len(self._received) >= STATUS.size:
            self._take_record(*STATUS.unpack(self._received[: STATUS.size]))
            self._received = self._received[STATUS.size :]
        if data or self._exit_code is not None:
            return
        if self.pid > 0:
            self._lose_parent()
        else:
            self._ask_again()

    def _take_record(self, pid: int, exit_code: int) -> None:
        if self._request is not None:
            self._request = None
            self._note_answer()
        self.pid = pid
        if exit_code != RUNNING:
            self._exit_code = exit_code

    def terminate(self) -> None:
        self._signal_or_withdraw(signal.SIGTERM)

    def kill(self) -> None:
        self._signal_or_withdraw(signal.SIGKILL)
        self._killed = True

    def _signal_or_withdraw(self, number: int) -> None:
        """Signal a worker that runs. One that is still to be forked finds no master then, and ends by itself."""
        if self.poll() is not None:  # the process id may belong to another process by now
            return
        if self.pid > 0:
            self._signal(number)
            return
        self._withdraw()
        self._exit_code = -number
