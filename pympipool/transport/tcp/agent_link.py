"""The relay's half of an agent: requests of the master go there, and the streams of its workers come from there.

    master ── REQUEST: body ──────────────── AgentLink    ── REQUEST: body ─────────────> agent ── fork ──> worker
           <── DATA: stdout, stderr, status ─ MasterStream <── DATA: stdout, stderr, status ──
           <── ring; frames ───────────────── AgentRank    <── DATA: messages ──────────────>

A thread of the relay serves each agent with all its workers. While the network is cut off, all is kept; the agent connects again,
and both sides send what the other has not received. When either side is gone, the connection to the master ends: so it knows that
the workers are lost.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from pympipool.transport.frames import decode_body
from pympipool.transport.host_stream import (
    CONTROL,
    DATA,
    MESSAGES,
    PAUSE,
    REQUEST,
    RESUME,
    STATUS,
    HostFrame,
    close_all,
)
from pympipool.transport.tcp.agent_rank import AgentRank
from pympipool.transport.tcp.agent_stream import AgentStream, Frame
from pympipool.transport.tcp.handshake import AuthenticationError
from pympipool.transport.tcp.master_stream import MasterStream, RankControl
from pympipool.transport.tcp.sockets import HOST_GONE_S, process_has_ended
from pympipool.transport.tcp.stream import AGENT, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from pympipool.transport.tcp.call_forwarder import CallForwarder

    class Registry(Protocol):
        """What the relay does for its agents."""

        calls: CallForwarder

        def offer_agent(self, connection: socket.socket) -> None:
            """Give the master its end of the connection to an agent."""

        def new_token(self) -> bytes:
            """Return a token for a rank or an agent."""

        def add_rank(self, rank: AgentRank) -> None:
            """Accept connections for shared data of this rank."""

        def remove_rank(self, rank: AgentRank) -> None:
            """Accept no more of them."""


RECONNECT_TIMEOUT_S = 10.0
"""Seconds within which an agent whose host does not answer must connect again; then its workers are lost."""


class AgentLink:
    """The connection between the master and one agent.

    Args:
        name: The name by which the agent connects again.
        report: The frame in which the agent describes its host, for the master.
        relay: The relay.

    Attributes:
        calls: Waits for the calls to all workers.
        frames: The connection to the agent.
    """

    def __init__(self, name: bytes, report: bytes, relay: Registry) -> None:
        self.name = name
        self.calls = relay.calls
        self.frames = AgentStream()
        self._relay = relay
        self._keepalive: socket.socket | None = None
        self._cut_off_s = inf  # since when the agent's host does not answer
        self._lock = threading.Lock()  # protects all of this
        self._ranks: dict[int, AgentRank] = {}  # by the number of the worker
        self._scheduled: dict[AgentRank, None] = {}  # those that have something to send to the worker, in turns
        self._recalls: dict[AgentRank, float] = {}  # when calls are to be recalled from workers
        self._next_recall_s = inf  # not before this time
        self._watches_writing = False  # to the agent
        self._watches_master = False  # the same for the master
        self._poll = select.poll()
        self._offered, connection = socket.socketpair()
        self._master = MasterStream(connection, report, self.frames.put)
        self._poll.register(self._master.frames, select.POLLIN)
        self._wake_receiver, self._wake_sender = socket.socketpair()
        for end in (self._wake_receiver, self._wake_sender):
            end.setblocking(False)
        self._poll.register(self._wake_receiver, select.POLLIN)
        self.is_closed = False

    # ---- the connection ----

    def attach(self, stream: Stream, keepalive: socket.socket, received_bytes: int) -> None:
        """Go on over a new connection, and tell the agent that. From any thread.

        Args:
            stream: The connection, after its handshake.
            keepalive: Tells of the end of the agent's process, and of its host.
            received_bytes: What the agent has received over earlier connections.

        Raises:
            OSError: It has ended already.
            AuthenticationError: This link has been given up.
        """
        with self._lock:
            if self.is_closed:
                raise AuthenticationError("the agent has been given up")
            self._detach()
            stream.send(AGENT, 0, self.frames.received_bytes, [self.name])
            connection, rest = stream.detach()
            self.frames.attach(connection, rest, received_bytes)  # type: ignore[arg-type]
            self._keepalive, self._cut_off_s, self._watches_writing = keepalive, inf, False
            self._poll.register(self.frames.fileno(), select.POLLIN)
            self._poll.register(keepalive, select.POLLIN)
        self._wake()

    def _detach(self) -> None:
        """Close the connection, and keep what it was to carry."""
        if self._keepalive is None:
            return
        self._poll.unregister(self.frames.fileno())
        self._poll.unregister(self._keepalive)
        self.frames.detach()
        self._keepalive.close()
        self._keepalive = None
        self._watches_writing = False
        self._cut_off_s = monotonic()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has been woken already, or has ended
            self._wake_sender.send(b"\0")

    # ---- the thread ----

    def serve(self) -> None:
        """Run until either side is gone."""
        try:
            with self._offered:
                self._relay.offer_agent(self._offered)
            while True:
                events = self._poll.poll(self._timeout_ms())
                with self._lock:
                    self._serve_events(events)
        except (OSError, EOFError, ValueError):
            pass  # either side is gone
        finally:
            with self._lock:
                self._close()

    def _serve_events(self, events: Sequence[tuple[int, int]]) -> None:
        connection, master = self.frames.fileno(), self._master.frames.fileno()
        for descriptor, _ in events:
            if descriptor == self._wake_receiver.fileno():
                self._wake_receiver.recv(4096)
            elif descriptor == master:
                for frame in self._master.frames.receive():
                    self._take_from_master(frame)
            elif descriptor == connection:
                self._receive()
            elif self._keepalive is not None and descriptor == self._keepalive.fileno():
                self._on_keepalive_end(self._keepalive)
        if self.frames.is_buffered:
            self._receive()
        self._request_recalls()
        self._flush()
        if self._cut_off_s + RECONNECT_TIMEOUT_S < monotonic():
            silence_s = HOST_GONE_S + RECONNECT_TIMEOUT_S
            for rank in self._ranks.values():
                rank.report_host_lost(f"its host has not answered for {silence_s:g} s")
            raise EOFError("the agent's host does not answer")

    def _timeout_ms(self) -> float | None:
        if self.frames.is_buffered:
            return 0
        due_s = min(self._next_recall_s, self._cut_off_s + RECONNECT_TIMEOUT_S)
        return None if due_s == inf else max(0.0, due_s - monotonic()) * 1000 + 1

    def _on_keepalive_end(self, keepalive: socket.socket) -> None:
        if process_has_ended(keepalive):
            raise EOFError("the agent has ended")
        self._detach()

    def _take_from_master(self, frame: HostFrame) -> None:
        kind, stream, worker, data, descriptors = frame
        if kind == REQUEST:
            if decode_body(data)[0] == "fork":
                self._ranks[worker] = AgentRank(worker, self, self._relay.new_token())
            self.frames.put(REQUEST, 0, worker, data)
        elif kind in {PAUSE, RESUME}:
            self._master.pause(kind, stream, worker)
        elif worker in self._ranks:
            self._serve_rank(self._ranks[worker], lambda rank: rank.take_frame(data, descriptors))
        else:
            close_all(descriptors)  # it has ended

    # ---- from the agent ----

    def _receive(self) -> None:
        try:
            for frame in self.frames.receive():
                self._take_frame(frame)
        except EOFError:
            raise
        except OSError:  # the keepalive connection tells what has happened
            self._detach()

    def _take_frame(self, frame: Frame) -> None:
        kind, stream, worker, data = frame
        rank = self._ranks.get(worker)
        if kind == DATA and stream <= STATUS:
            self._master.forward(stream, worker, data)
            if stream == STATUS and not data:
                self._master.forget(worker)
        elif rank is None:
            return  # it has ended
        elif kind == DATA and stream == MESSAGES:
            self._serve_rank(rank, lambda rank: rank.take_data(data))
        elif kind in {PAUSE, RESUME}:
            rank.is_paused = kind == PAUSE
            self.schedule(rank)

    # ---- workers ----

    def connect(self, rank: AgentRank) -> RankControl:
        """Return the control connection of a rank that has said hello."""
        self._relay.add_rank(rank)
        return RankControl(rank.number, self._master, self._send_to_master)

    def _send_to_master(self, worker: int, body: bytes) -> None:
        """Send a frame of a control connection at once. From any thread that holds no lock."""
        with self._lock:
            self._master.frames.put(DATA, CONTROL, worker, body)
        self._wake()

    def forward_calls(self, ranks: Sequence[AgentRank]) -> None:
        """Forward what the master has put on the rings of workers. From any thread."""
        with self._lock:
            for rank in ranks:
                if not rank.gone:
                    self._serve_rank(rank, AgentRank.forward_calls)
            with contextlib.suppress(OSError):  # the thread sees it too
                self._flush()
            is_new = self._next_recall_s < inf
        if is_new:
            self._wake()

    def _serve_rank(self, rank: AgentRank, serve: Callable[[AgentRank], None]) -> None:
        """Do something for a worker, and end it if that fails."""
        try:
            serve(rank)
        except (OSError, EOFError, ValueError):
            self._end(rank)
            return
        due_s = rank.recall_due_s
        if due_s < inf:
            self._recalls[rank] = due_s
            self._next_recall_s = min(self._next_recall_s, due_s)
        else:
            self._recalls.pop(rank, None)

    def _request_recalls(self) -> None:
        now = monotonic()
        if now < self._next_recall_s:
            return
        self._next_recall_s = inf
        for rank, due_s in list(self._recalls.items()):
            if due_s <= now:
                self._serve_rank(rank, AgentRank.recall)
            else:
                self._next_recall_s = min(self._next_recall_s, due_s)

    def _end(self, rank: AgentRank) -> None:
        """End a worker at the master and at its agent; its pipes go on."""
        if self._ranks.pop(rank.number, None) is None:
            return
        self._recalls.pop(rank, None)
        self._scheduled.pop(rank, None)
        if rank.control is not None:
            self._relay.remove_rank(rank)
        rank.close()
        self.frames.put(DATA, MESSAGES, rank.number)

    # ---- to the agent ----

    def schedule(self, rank: AgentRank) -> None:
        """Have the messages to a worker sent, in turns with those to others."""
        self._scheduled[rank] = None

    def _flush(self) -> None:
        while self._scheduled and not self.frames.is_full:
            rank = next(iter(self._scheduled))
            del self._scheduled[rank]
            piece = rank.take_slice()
            if piece is not None:
                self.frames.put(DATA, MESSAGES, rank.number, piece)
                self._scheduled[rank] = None
        self.frames.flush()
        # the connection may have taken all, so that more can follow
        wants_writing = self.frames.is_waiting or (bool(self._scheduled) and self.frames.fileno() >= 0)
        if wants_writing != self._watches_writing:
            self._watches_writing = wants_writing
            self._poll.modify(self.frames.fileno(), select.POLLIN | select.POLLOUT * wants_writing)
            self._wake()
        self._flush_to_master()

    def _flush_to_master(self) -> None:
        self._master.flush()
        self.frames.flush()  # it may have had pipes read again
        wants_writing = self._master.frames.waiting_bytes > 0
        if wants_writing != self._watches_master:
            self._watches_master = wants_writing
            self._poll.modify(self._master.frames, select.POLLIN | select.POLLOUT * wants_writing)
            self._wake()

    # ---- the end ----

    def _close(self) -> None:
        """Hang up on the agent, which then ends, and on the master, for all workers."""
        self.is_closed = True
        for rank in list(self._ranks.values()):
            self._end(rank)
        with contextlib.suppress(OSError):  # it is gone
            self._master.flush()
        self._master.frames.close()
        self._detach()
        self._wake_receiver.close()
        self._wake_sender.close()
