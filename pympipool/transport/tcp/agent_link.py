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
import socket
import threading
from math import inf
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING

from pympipool._core.relayed_channel import forward_all, take_answers
from pympipool.transport.frames import decode_body
from pympipool.transport.host_stream import CONTROL, DATA, MESSAGES, PAUSE, REQUEST, RESUME, STATUS, close_all
from pympipool.transport.tcp.agent_loop import tell_fault
from pympipool.transport.tcp.agent_rank import AgentRank
from pympipool.transport.tcp.agent_stream import AgentStream, Frame
from pympipool.transport.tcp.handshake import AuthenticationError
from pympipool.transport.tcp.master_stream import MasterStream, RankControl
from pympipool.transport.tcp.sockets import HOST_GONE_S, State, state_of
from pympipool.transport.tcp.stream import AGENT, Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pympipool.transport.host_stream import HostFrame
    from pympipool.transport.tcp.agent_loop import AgentLoop
    from pympipool.transport.tcp.call_forwarder import CallForwarder
    from pympipool.transport.tcp.polled_prefetch import PolledPrefetchQueue

    class Registry(Protocol):
        """What the relay does for its agents."""

        calls: CallForwarder

        def offer_agent(self, connection: socket.socket) -> None:
            """Give the master its end of the connection to an agent."""

        def new_token(self) -> bytes:
            """Return a token for a rank or an agent."""

        def add_rank(self, rank: AgentRank) -> None:
            """Accept connections for shared data of this rank."""

        def remove_agent(self, link: AgentLink) -> None:
            """Forget a link that is closed."""

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
        loop: Its thread.

    Attributes:
        loop: Its thread.
        calls: Waits for the calls to all workers.
        frames: The connection to the agent.
    """

    def __init__(self, name: bytes, report: bytes, relay: Registry, loop: AgentLoop) -> None:
        self.name = name
        self.calls = relay.calls
        self.frames = AgentStream()
        self._relay = relay
        self._keepalive: socket.socket | None = None
        self._cut_off_s = inf  # since when the agent's host does not answer
        self.frames.take_small = self._take_small
        self._lock = threading.Lock()  # protects all of this
        self._ranks: dict[int, AgentRank] = {}  # by the number of the worker
        self._scheduled: dict[AgentRank, None] = {}  # those that have something to send to the worker, in turns
        self._queues: dict[int, PolledPrefetchQueue] = {}  # those of workers that have got their settings
        self._recalls: set[PolledPrefetchQueue] = set()  # those from which calls may have to be recalled
        self._next_recall_s = inf  # not before this time
        self._watches_writing = False  # to the agent
        self._watches_master = False  # the same for the master
        self.is_closed = False
        self.loop = loop
        self._offered, connection = socket.socketpair()
        try:
            self._master = MasterStream(connection, report, self.frames.put)
            loop.watch(connection.fileno(), self)
        except BaseException:
            connection.close()
            self._offered.close()
            raise

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
        try:
            with self._lock:
                if self.is_closed:
                    raise AuthenticationError("the agent has been given up")
                self._detach()
                self._attach(stream, keepalive, received_bytes)
        finally:  # after a failure too: the agent has a limited time then
            self.loop.wake(self)

    def _attach(self, stream: Stream, keepalive: socket.socket, received_bytes: int) -> None:
        stream.send(AGENT, 0, self.frames.received_bytes, [self.name])
        connection, rest = stream.detach()
        self._keepalive = keepalive
        try:
            self.frames.attach(connection, rest, received_bytes)  # type: ignore[arg-type]
            self.loop.watch(self.frames.fileno(), self)
            self.loop.watch(keepalive.fileno(), self)
        except BaseException:
            self._detach()
            raise
        self._cut_off_s = inf

    def _detach(self) -> None:
        """Close both connections, and keep what is to be carried."""
        self._detach_frames()
        if self._keepalive is not None:
            self.loop.unwatch(self._keepalive.fileno())
            self._keepalive.close()
            self._keepalive = None

    def _detach_frames(self) -> None:
        """Close the connection for frames. The keepalive connection goes on, and tells if the agent has ended."""
        if self.frames.fileno() < 0:
            return
        self.loop.unwatch(self.frames.fileno())
        self.frames.detach()
        self._watches_writing = False
        self._cut_off_s = monotonic()

    # ---- the thread ----

    def offer(self) -> None:
        """Give the master its end of the connection, and serve both sides from now on, until one is gone.

        Raises:
            OSError: The master is gone.
        """
        with self._offered:
            self._relay.offer_agent(self._offered)
        self.loop.add(self)

    def give_up(self) -> None:
        """Close a link that could not be attached or offered. A second time, do nothing. From any thread."""
        with self._lock, self._offered:
            if not self.is_closed:
                self._close()

    def serve(self, descriptors: set[int]) -> float:
        """Do what has become possible, and return the time until which nothing else is to be done.

        Args:
            descriptors: What has become readable or writable.
        """
        with self._lock:
            if self.is_closed:
                return inf
            try:
                self._serve(descriptors)
            except Exception as error:  # either side is gone, or sends what ours cannot: the other agents are served on
                tell_fault(error)
                self._close()
                return inf
            return 0.0 if self.frames.is_buffered else self._due_s()

    def _due_s(self) -> float:
        return min(self._next_recall_s, self._cut_off_s + RECONNECT_TIMEOUT_S)

    def _serve(self, descriptors: set[int]) -> None:
        if self._keepalive is not None and self._keepalive.fileno() in descriptors:
            self._on_keepalive_end(self._keepalive)
        if self._master.frames.fileno() in descriptors:
            for frame in self._master.frames.receive():
                self._take_from_master(frame)
        if self.frames.fileno() in descriptors or self.frames.is_buffered:
            self._receive()
        self._request_recalls()
        self._flush()
        if self._cut_off_s + RECONNECT_TIMEOUT_S < monotonic():
            silence_s = HOST_GONE_S + RECONNECT_TIMEOUT_S
            for rank in self._ranks.values():
                rank.report_host_lost(f"its host has not answered for {silence_s:g} s")
            raise EOFError("the agent's host does not answer")

    def _on_keepalive_end(self, keepalive: socket.socket) -> None:
        if (state := state_of(keepalive)) is State.CLOSED:
            raise EOFError("the agent has ended")
        if state is not State.OPEN:  # else it is a late event of a connection that had this descriptor before
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
        except OSError:
            self._detach_frames()

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
            rank.pause(is_on=kind == PAUSE)

    # ---- workers ----

    def connect(self, rank: AgentRank) -> RankControl:
        """Return the control connection of a rank that has said hello."""
        self._relay.add_rank(rank)
        return RankControl(rank.number, self._master, self._send_to_master)

    def _send_to_master(self, worker: int, body: bytes) -> None:
        """Send a frame of a control connection at once. From any thread that holds no lock."""
        with self._lock:
            self._master.frames.put(DATA, CONTROL, worker, body)
        self.loop.wake(self)

    def forward_calls(self, queues: list[PolledPrefetchQueue]) -> None:
        """Forward what the master has put on the rings of workers. From any thread."""
        with self._lock:
            if self.is_closed:
                return
            known_due_s = self._due_s()
            try:
                for queue in self._forward(queues):
                    if not queue.rank.gone:  # it has room now for answers
                        self._serve_rank(queue.rank, AgentRank.check_answers)
                with contextlib.suppress(OSError):  # the thread sees it too
                    self._flush()
            except Exception as error:  # as in `serve`
                tell_fault(error)
                self._close()
            if self._due_s() < known_due_s:
                self.loop.wake(self)

    def _forward(self, queues: list[PolledPrefetchQueue]) -> list[PolledPrefetchQueue]:
        due: list[PolledPrefetchQueue] = []
        failed: list[tuple[PolledPrefetchQueue, Exception]] = []
        waiting = forward_all(queues, self.frames, due, failed)
        self._after_forwarding(due, failed)
        return waiting

    def _take_small(self, incoming: bytearray, position: int) -> int:
        """Forward small answers, and the calls that may be sent then."""
        due: list[PolledPrefetchQueue] = []
        failed: list[tuple[PolledPrefetchQueue, Exception]] = []
        position = take_answers(incoming, position, self._queues, self.frames, due, failed)
        self._after_forwarding(due, failed)
        return position

    def _after_forwarding(
        self, due: list[PolledPrefetchQueue], failed: list[tuple[PolledPrefetchQueue, Exception]]
    ) -> None:
        for queue, error in failed:
            tell_fault(error)
            self._end(queue.rank)
        for queue in due:
            if not queue.rank.gone:
                self._recalls.add(queue)
                self._next_recall_s = min(self._next_recall_s, queue.recall_due_ns / 1e9)

    def _serve_rank(self, rank: AgentRank, serve: Callable[[AgentRank], None]) -> None:
        """Do something for a worker, and end it if that fails."""
        try:
            serve(rank)
        except Exception as error:
            tell_fault(error)
            self._end(rank)
            return
        if rank.queue is not None:
            self._queues[rank.number] = rank.queue
            self._forward([rank.queue])

    def _request_recalls(self) -> None:
        now_ns = monotonic_ns()
        if now_ns / 1e9 < self._next_recall_s:
            return
        self._next_recall_s = inf
        for queue in list(self._recalls):
            due_ns = queue.recall_due_ns
            if due_ns and due_ns <= now_ns:
                self._serve_rank(queue.rank, AgentRank.recall)
            if not queue.recall_due_ns:
                self._recalls.discard(queue)
            elif due_ns > now_ns:
                self._next_recall_s = min(self._next_recall_s, due_ns / 1e9)

    def _end(self, rank: AgentRank) -> None:
        """End a worker at the master and at its agent; its pipes go on."""
        if self._ranks.pop(rank.number, None) is None:
            return
        if rank.queue is not None:
            self._recalls.discard(rank.queue)
            self._queues.pop(rank.number, None)
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
        self._flush_to_master()  # it may have pipes read again
        try:
            self.frames.flush()
        except OSError:
            self._detach_frames()
        # the connection may have taken all, so that more can follow
        wants_writing = self.frames.is_waiting or (bool(self._scheduled) and self.frames.fileno() >= 0)
        if wants_writing != self._watches_writing:
            self._watches_writing = wants_writing
            self.loop.watch_writing(self.frames.fileno(), is_on=wants_writing)

    def _flush_to_master(self) -> None:
        self._master.flush()
        wants_writing = self._master.frames.waiting_bytes > 0
        if wants_writing != self._watches_master:
            self._watches_master = wants_writing
            self.loop.watch_writing(self._master.frames.fileno(), is_on=wants_writing)

    # ---- the end ----

    def _close(self) -> None:
        """Hang up on the agent, which then ends, and on the master, for all workers."""
        self.is_closed = True
        for rank in list(self._ranks.values()):
            self._end(rank)
        with contextlib.suppress(OSError):  # it is gone
            self._master.flush()
        self.loop.unwatch(self._master.frames.fileno())
        self._master.frames.close()
        self._detach()
        self._relay.remove_agent(self)
