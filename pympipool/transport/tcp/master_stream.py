"""What goes from an agent to the master besides calls and results, and what comes back: the relay's end of `host_stream.py`.

    agent ── stdout, stderr, status ──> MasterStream ── the same frames ──> master
          <── PAUSE, RESUME ──────────               <── PAUSE, RESUME ────
    AgentRank.control: RankControl ── frames of the control connection <──> master

If the master does not read, output is paused. All else is little, and waits here.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from pympipool.transport.control_client import shared_descriptor
from pympipool.transport.frames import decode_body, encode_body
from pympipool.transport.host_stream import (
    CONNECTED,
    CONTROL,
    DATA,
    PAUSE,
    REPORT,
    RESUME,
    STDERR,
    STDOUT,
    HostStream,
    close_all,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

WAITING_MAX_BYTES = 1 << 18
"""Bytes that may wait for the master to read, before agents are asked to pause output."""


class MasterStream:
    """The connection to the master for one agent. For one thread at a time.

    Args:
        connection: The connection.
        report: The frame in which the agent describes its host.
        tell_agent: Called with `PAUSE` or `RESUME`, the stream's number, and the worker's.
    """

    def __init__(self, connection: socket.socket, report: bytes, tell_agent: Callable[[int, int, int], None]) -> None:
        self.frames = HostStream(connection)
        self._tell_agent = tell_agent
        self._paused_by_master: set[tuple[int, int]] = set()  # workers and their streams
        self._paused_here: set[tuple[int, int]] = set()
        self.frames.put(REPORT, 0, 0, report)
        self.frames.flush()

    def forward(self, stream: int, worker: int, data: bytes | bytearray) -> None:
        """Forward bytes of a worker's pipe; none: its end."""
        self.frames.put(DATA, stream, worker, data)
        pipe = worker, stream
        if stream <= STDERR and self.frames.waiting_bytes > WAITING_MAX_BYTES and pipe not in self._paused_here:
            self._paused_here.add(pipe)
            self._tell_agent(PAUSE, stream, worker)

    def pause(self, kind: int, stream: int, worker: int) -> None:
        """Have a pipe paused, or read again, as the master asks."""
        pipe = worker, stream
        (self._paused_by_master.add if kind == PAUSE else self._paused_by_master.discard)(pipe)
        if kind == PAUSE or pipe not in self._paused_here:
            self._tell_agent(kind, stream, worker)

    def forget(self, worker: int) -> None:
        """Forget a worker whose pipes have ended."""
        for stream in (STDOUT, STDERR):
            self._paused_by_master.discard((worker, stream))
            self._paused_here.discard((worker, stream))

    def flush(self) -> None:
        """Send what waits, and have paused pipes read again when all is sent.

        Raises:
            OSError: The master is gone.
        """
        self.frames.flush()
        if self._paused_here and not self.frames.waiting_bytes:
            for worker, stream in self._paused_here - self._paused_by_master:
                self._tell_agent(RESUME, stream, worker)
            self._paused_here.clear()


class RankControl:
    """The control connection of one worker, as of `WorkerControl`: the relay's end.

    Args:
        worker: The worker's number.
        stream: The connection to the master. The caller holds the lock that protects it, unless it is told otherwise.
        send_now: Sends what was put, from any thread.
    """

    def __init__(self, worker: int, stream: MasterStream, send_now: Callable[[int, bytes], None]) -> None:
        self._worker = worker
        self._frames = stream.frames
        self._send_now = send_now
        self._answers: SimpleQueue[tuple[Any, list[int]] | None] = SimpleQueue()
        self._has_ended = False
        self._request_lock = threading.Lock()  # a worker may have opened another connection for shared data
        self._frames.put(CONNECTED, 0, worker)

    def forward(self, body: bytes | bytearray) -> None:
        """Send the body of a frame."""
        self._frames.put(DATA, CONTROL, self._worker, body)

    def request_shared(self, key: bytes) -> int | None:
        """Return a descriptor of shared data; None if they have been released. For a thread that holds no lock.

        Raises:
            EOFError: The worker is gone.
            OSError: This process has no descriptor free.
        """
        with self._request_lock:
            self._send_now(self._worker, encode_body(("shared", key)))
            answer = self._answers.get()
        if answer is None:
            self._answers.put(None)  # for the next question
            raise EOFError("the worker is gone")
        return shared_descriptor(*answer)

    def take_answer(self, body: bytes, descriptors: list[int]) -> None:
        """Take what the master has answered."""
        self._answers.put((decode_body(body), descriptors))

    def hang_up(self) -> None:
        """End the connection. A second time, do nothing."""
        if not self._has_ended:
            self._has_ended = True
            self._frames.put(DATA, CONTROL, self._worker)
            self._answers.put(None)

    def close(self) -> None:
        """Close descriptors that no thread has asked for."""
        while not self._answers.empty():
            answer = self._answers.get()
            if answer is not None:
                close_all(answer[1])
        self._answers.put(None)
