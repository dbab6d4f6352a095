"""The control connections of all workers: accepts and authenticates them, sends and receives frames.

listener ─► handshake: which worker, which rank? ─► RankEvents.on_connected
         └► no room for one more: the oldest connection without a handshake gives way, and its worker connects again
a worker behind an agent: the relay tells which one it is ─► RankEvents.on_connected
frame ─► RankEvents.on_frame
a viewer, in place of a rank ─► its answer is the status of the executor
hang-up ─► RankEvents.on_hung_up
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pympipool._util.clocks import RunningClock
from pympipool._util.service_threads import ServiceLogger
from pympipool.errors import WorkerStartError
from pympipool.pool.shortages import NAMES as SHORTAGES
from pympipool.transport.control_server import (
    SEND_TIMEOUT_S,
    Connection,
    HandshakeError,
    Listener,
    PeerClosed,
    ViewerHello,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pympipool._core.ring import Segment
    from pympipool.pool.event_loop import EventLoop, Timer
    from pympipool.pool.worker_handle import WorkerHandle
    from pympipool.transport.frames import Frame
    from pympipool.transport.relayed_connection import RelayedConnection

    ControlConnection: TypeAlias = Connection | RelayedConnection

LOGGER = ServiceLogger("pympipool.pool")

HANDSHAKE_TIMEOUT_S = 10.0
"""Time that an unauthenticated connection has to complete the handshake."""

KEEPS_PLACE_S = 1.0
"""Time that an unauthenticated connection has in any case, also where strangers connect all the time."""

ACCEPT_PAUSE_S = 0.1
"""Pause before connections are accepted again after there was no descriptor for one, or no room."""

FINAL_READS_MAX = 64
"""Reads from a connection whose process has exited, at most."""

SEND_PATIENCE_S = 0.02
"""Time that the thread waits at once for a rank to read what is sent to it. A rank that reads makes room in microseconds."""

SEND_RETRY_S = 0.05
"""Time until the next attempt to send the rest to a rank that does not read."""


class RankEvents(Protocol):
    """What the supervisor does when something happens to a connection.

    Attributes:
        workers: The workers that are not gone, by number.
    """

    @property
    def workers(self) -> Mapping[int, WorkerHandle]: ...

    def on_connected(self, worker: WorkerHandle, rank: int) -> None:
        """A rank has authenticated itself. It is in `worker.connections`."""

    def on_frame(self, worker: WorkerHandle, rank: int, frame: tuple[Any, ...]) -> None:
        """A rank has sent a frame."""

    def on_hung_up(self, worker: WorkerHandle, rank: int) -> None:
        """The connection of a rank has ended."""


class ControlConnections:
    """The connections of one executor's workers. Only for the supervisor's thread.

    Args:
        listener: Accepts them.
        loop: Waits for them.
        events: The supervisor.

    Attributes:
        report: Returns the status of the executor for viewers.
    """

    report: Callable[[], bytes] | None = None

    def __init__(self, listener: Listener, loop: EventLoop, events: RankEvents) -> None:
        self._listener = listener
        self._loop = loop
        self._events = events
        self._unauthenticated: dict[Connection, tuple[float, Timer]] = {}  # oldest first: when accepted; its deadline
        self._has_warned = False

    def listen(self) -> None:
        """Accept connections, if that is not done already."""
        if self._listener not in self._loop.watched():
            self._loop.watch(self._listener, self._accept)

    def _accept(self) -> None:
        if not self._make_room():
            self._pause()
            return
        try:
            connection = self._listener.accept()
        except OSError as error:  # no descriptor is free: the peer waits, and the listener would stay readable
            LOGGER.warning("a connection has to wait: %s", error)
            self._pause()
            return
        if connection is None:
            return
        try:
            deadline = self._loop.call_later(HANDSHAKE_TIMEOUT_S, lambda: self.drop(connection))
            self._unauthenticated[connection] = monotonic(), deadline
            self._loop.watch(connection, lambda: self._handshake(connection))
        except BaseException:  # its worker ends with it
            self.drop(connection)
            raise

    def _pause(self) -> None:
        self._loop.call_later(ACCEPT_PAUSE_S, self.listen)
        self._loop.unwatch(self._listener)

    def _make_room(self) -> bool:
        """Return True if there is room for another connection: drop the oldest one that has had its time to prove something."""
        while not self._loop.has_room:
            oldest = next(iter(self._unauthenticated), None)
            if oldest is None or self._unauthenticated[oldest][0] + KEEPS_PLACE_S > monotonic():
                return False
            self._handshake(oldest)  # its hello may have come by now
            if oldest in self._unauthenticated:
                self.drop(oldest)
                if not self._has_warned:
                    self._has_warned = True
                    LOGGER.warning(
                        "other programs connect to the port of this executor, so many that there is no room for more: those that"
                        " prove nothing are dropped after %g s, and workers start later",
                        KEEPS_PLACE_S,
                    )
        return True

    def _handshake(self, connection: Connection) -> None:
        try:
            self._authenticate(connection)
        except BaseException:  # its worker ends with it
            self.drop(connection)
            raise

    def _authenticate(self, connection: Connection) -> None:
        try:
            hello = connection.handshake()
        except (HandshakeError, OSError, EOFError) as error:
            if isinstance(error, ViewerHello):
                if self.report is not None:
                    connection.answer(self.report())
            elif isinstance(error, PeerClosed):
                LOGGER.info("a connection ended before its hello: usually of a worker that was killed while it started")
            else:
                LOGGER.warning("dropped a connection that is not from one of our workers: %s", error)
            self.drop(connection)
            return
        if hello is None:
            return
        self._end_deadline(connection)
        self._assign(connection)

    def admit(self, connection: RelayedConnection) -> None:
        """Take the connection of a worker behind an agent, or close it if there is no such worker."""
        self._loop.run(lambda: self._assign(connection))

    def _assign(self, connection: ControlConnection) -> None:
        """Give an authenticated connection to its worker."""
        worker = self._events.workers.get(connection.worker)
        rank = connection.rank
        if worker is None or rank >= worker.request.ranks or rank in worker.connections:
            self.drop(connection)
            return
        worker.connections[rank] = connection
        self._loop.run(lambda: self._admit(worker, rank, connection), worker.handlers)

    def _admit(self, worker: WorkerHandle, rank: int, connection: ControlConnection) -> None:
        """Listen to an authenticated rank."""
        self._loop.unwatch(connection)
        self._loop.watch(connection, partial(self._read, worker, rank, connection), worker.handlers)
        self._events.on_connected(worker, rank)

    def _read(self, worker: WorkerHandle, rank: int, connection: ControlConnection) -> None:
        try:
            frames = connection.receive_available()
        except (EOFError, OSError):
            self._hung_up(worker, rank, connection)
            return
        for frame in frames:
            self._events.on_frame(worker, rank, frame)

    def _hung_up(self, worker: WorkerHandle, rank: int, connection: ControlConnection) -> None:
        self.drop(connection)
        self._events.on_hung_up(worker, rank)

    def send(self, worker: WorkerHandle, rank: int, frame: Frame, descriptors: Sequence[int | Segment] = ()) -> None:
        """Send a frame to a rank, or as much of it as the rank has room for now, and the rest later: see `Connection.post`."""
        connection = worker.connections[rank]
        try:
            connection.post(frame, descriptors)
        except OSError as error:  # on Windows also: descriptors are copied into the process, which has just ended
            if error.errno in SHORTAGES and worker.process.start_failure is None:
                worker.process.start_failure = WorkerStartError(f"worker {worker.number} got no settings: {error}")
            self._hung_up(worker, rank, connection)
            return
        unread_for = RunningClock()

        def flush(left_before: int) -> None:
            if connection.is_closed:
                return
            try:
                left = connection.flush(SEND_PATIENCE_S)
            except OSError:
                self._hung_up(worker, rank, connection)
                return
            if left != left_before:
                unread_for.restart()
            if unread_for.elapsed() > SEND_TIMEOUT_S:
                LOGGER.warning("worker %d: rank %d left a frame unread for %g s", worker.number, rank, SEND_TIMEOUT_S)
                self._hung_up(worker, rank, connection)
            elif left:
                delay_s = SEND_RETRY_S if left == left_before else 0.0
                self._loop.call_later(delay_s, lambda: flush(left), worker.handlers)

        flush(0)

    def drop(self, connection: ControlConnection) -> None:
        """Close a connection."""
        self._end_deadline(connection)
        self._loop.unwatch(connection)
        connection.close()

    def _end_deadline(self, connection: ControlConnection) -> None:
        if isinstance(connection, Connection) and connection in self._unauthenticated:
            _, deadline = self._unauthenticated.pop(connection)
            self._loop.cancel((deadline,))

    def read_to_end(self, worker: WorkerHandle) -> bool:
        """Read what is left of a worker whose process has exited; return True if all its connections have ended too."""
        for rank, connection in list(worker.connections.items()):
            for _ in range(
                FINAL_READS_MAX
            ):  # frames, then the hang-up, unless a surviving child holds the connection open
                if connection.is_closed:
                    break
                self._read(worker, rank, connection)
        return all(connection.is_closed for connection in worker.connections.values())
