"""An agent of another host as the relay sees it: requests of the master go there, and what its workers write comes back.

    master ── request: body, three pipes ──> AgentLink ── CONTROL: body ───────────────> agent
           <── pipes of the worker ─────────           <── PIPE: worker, pipe, bytes ───
                                                        ── PAUSE, GO_ON: worker, pipe ─>

So the master sees an agent as it sees a forkserver of its own host. A thread of the relay serves each agent. A pipe that the
master does not read is paused. When either side is gone, all pipes end, which tells the master that their workers are lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from pympipool.transport.fork_requests import read_body, receive_request
from pympipool.transport.frames import decode_body, with_length
from pympipool.transport.tcp.stream import CONTROL, GO_ON, PAUSE, PIPE, STATUS_PIPE, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER_BYTES = 1 << 16
"""Bytes that wait for the master to read a pipe, before the agent is asked to pause it."""


class AgentLink:
    """The connection between the master and one agent.

    Args:
        stream: The agent's connection, after its handshake.
        keepalive: The keepalive connection; it tells of the end of the agent's process, and of its host.
        report: The frame in which the agent describes its host, for the master.
        offer: Gives the master's end of a socket pair to the master.

    Attributes:
        idle: True: nothing of an agent that has ended is worth waiting for.
    """

    idle = True

    def __init__(
        self, stream: Stream, keepalive: socket.socket, report: bytes, offer: Callable[[socket.socket], None]
    ) -> None:
        self.stream = stream
        self.keepalive = keepalive
        self.control: RequestSocket | None = None
        self._report = report
        self._offer = offer
        self._gone = False
        self._poll = select.poll()
        self._pipes: dict[tuple[int, int], _Pipe] = {}  # by worker and pipe
        self._by_descriptor: dict[int, _Pipe] = {}  # those that are full

    def serve(self, on_connected: Callable[[AgentLink], None]) -> None:
        """Run until either side is gone."""
        try:
            self._serve(on_connected)
        except (OSError, EOFError, ValueError):
            pass  # either side is gone
        finally:
            for pipe in self._pipes.values():
                pipe.close()
            self.hang_up()

    def _serve(self, on_connected: Callable[[AgentLink], None]) -> None:
        self.stream.set_timeout(None)  # from here on the keepalive connection tells whether the agent is there
        ours, theirs = socket.socketpair()
        self.control = RequestSocket(ours)
        with theirs:
            ours.sendall(with_length(self._report))
            self._offer(theirs)
        on_connected(self)
        self._poll.register(self.stream.fileno(), select.POLLIN)
        self._poll.register(ours, select.POLLIN)
        while not self._gone:
            ready = [] if self.stream.wait(0) else [number for number, _ in self._poll.poll()]
            if ours.fileno() in ready and not self._forward_request(ours):
                return
            for number in ready:
                if (pipe := self._by_descriptor.get(number)) is not None:
                    self._write(pipe)
            if self.stream.wait(0):
                self._take_message()

    def _forward_request(self, master: socket.socket) -> bool:
        """Forward a request of the master; return False if the master has hung up."""
        descriptors = receive_request(master)
        if descriptors is None:
            return False
        file, *pipes = descriptors
        body = read_body(file)
        os.close(file)
        _, worker, *_ = decode_body(body)
        for kind, descriptor in enumerate(pipes):
            self._pipes[worker, kind] = _Pipe(worker, kind, descriptor)
        self.stream.send(CONTROL, 0, 0, [body])
        return True

    def _take_message(self) -> None:
        kind, worker, number, parts = self.stream.receive()
        if kind != PIPE:
            raise ConnectionError(f"the agent sent a message of kind {kind}")
        pipe = self._pipes.get((worker, number))
        if pipe is None:
            return
        pipe.waiting.append(parts[0])
        self._write(pipe)
        if number != STATUS_PIPE and pipe.size > BUFFER_BYTES and not pipe.is_paused:
            pipe.is_paused = True
            self.stream.send(PAUSE, worker, number, [])

    def _write(self, pipe: _Pipe) -> None:
        """Write what waits for a pipe, as much as it takes."""
        if pipe.kind == STATUS_PIPE and self._output_waits(pipe.worker):
            return  # the master reads the output to its end when the status says that the worker has ended
        is_open = pipe.flush()
        is_watched = pipe.descriptor in self._by_descriptor
        if pipe.waiting and not is_watched:
            self._by_descriptor[pipe.descriptor] = pipe
            self._poll.register(pipe.descriptor, select.POLLOUT)
        elif is_watched and not pipe.waiting:
            del self._by_descriptor[pipe.descriptor]
            self._poll.unregister(pipe.descriptor)
        if pipe.is_paused and not pipe.waiting:
            pipe.is_paused = False
            self.stream.send(GO_ON, pipe.worker, pipe.kind, [])
        if not is_open:
            del self._pipes[pipe.worker, pipe.kind]
            pipe.close()
        status = self._pipes.get((pipe.worker, STATUS_PIPE))
        if status is not None and status is not pipe and status.waiting:
            self._write(status)

    def _output_waits(self, worker: int) -> bool:
        outputs = (self._pipes.get((worker, kind)) for kind in range(STATUS_PIPE))
        return any(pipe is not None and pipe.waiting for pipe in outputs)

    def is_receiving(self) -> bool:
        """Return False: nothing of an agent that has ended is worth waiting for."""
        return False

    def mark_lost(self) -> None:
        """Hang up on the agent of a host that is gone: the master sees the pipes end."""
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections, and so the agent. From any thread."""
        self._gone = True
        self.stream.hang_up()
        with contextlib.suppress(OSError):  # it has ended already
            self.keepalive.shutdown(socket.SHUT_RDWR)
        if self.control is not None:
            self.control.hang_up()

    def close(self) -> None:
        """Close the descriptors, after the thread has ended."""
        self.stream.close()
        self.keepalive.close()
        if self.control is not None:
            self.control.close()


class RequestSocket:
    """The relay's end of the socket pair over which the master sends requests to one agent."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        """Return the descriptor; it hangs up when the master gives the agent up."""
        return self._socket.fileno()

    def hang_up(self) -> None:
        """End the connection. From any thread."""
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


class _Pipe:
    """The writing end of a pipe to the master, and what waits for it. b"" is the end."""

    def __init__(self, worker: int, kind: int, descriptor: int) -> None:
        self.worker, self.kind, self.descriptor = worker, kind, descriptor
        self.waiting: deque[bytes | bytearray] = deque()
        self.is_paused = False
        os.set_blocking(descriptor, False)

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(map(len, self.waiting))

    def flush(self) -> bool:
        """Write as much as the pipe takes; return False at its end."""
        try:
            while self.waiting:
                data = self.waiting[0]
                if not data:
                    self.waiting.clear()
                    return False
                written = os.write(self.descriptor, data)
                if written < len(data):
                    self.waiting[0] = data[written:]
                else:
                    self.waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the master has given the worker up
            self.waiting.clear()
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
