"""One agent as its master sees it: the connection through the relay, and the slots of its host.

AgentProcess ── request ──> AgentHost ── HostStream ──> relay ──> agent
<── output, status ──┤
RelayedConnection <── frames ─────┘
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pympipool._util.clocks import RunningClock
from pympipool.transport.frames import decode_body, encode_body
from pympipool.transport.host_stream import CONNECTED, CONTROL, DATA, REQUEST, HostFrame, HostStream
from pympipool.transport.relayed_connection import RelayedConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from pympipool.backends.agent.process import AgentProcess
    from pympipool.backends.spawner import SpawnerEvents

_FORK = encode_body(("fork",))

FLUSH_RETRY_S = 0.01
"""Seconds until the next attempt to send what the relay had no room for."""


class AgentHost:
    """A host with an agent.

    Args:
        connection: The connection to the agent, on which its report has arrived.
        events: The supervisor.
        on_end: Called when the agent has ended.
        known_cores: The numbers of cores of the hosts where the agent is not asked for them, by short names.

    Attributes:
        name: The host's name.
        agent_pid: The process id of the agent there.
        has_joined: It was started by somebody else than this executor, and may not be the only one of its host.
        key: Tells it from others: its name, or of those that have joined, its name and process id.
        cores, gpus: The number of cores and devices of the host.
        address: The address of the host from which the agent has connected; "" if that is a Unix socket.
        master_address: The address of the master's host to which it has connected; "" as before.
        unanswered: Those of which the agent has not told yet that they were forked, or have ended after a signal.
        silence: The time since its last answer, while there are such workers.
        has_answered: It has forked a worker.
        relay_pid: The process id of the relay through which it is connected.
        loss: Why it has ended, as far as that is known.

    Raises:
        OSError: The agent has ended already.
    """

    def __init__(
        self,
        connection: socket.socket,
        events: SpawnerEvents,
        on_end: Callable[[AgentHost], None],
        known_cores: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._stream = HostStream(connection)
        self._events = events
        self._on_end = on_end
        self._is_flushing = False  # what was put is sent at the end of this round of the loop
        self._template = b""  # which the agent has
        self._processes: dict[int, AgentProcess] = {}  # what receives from the agent, by number
        self._connections: dict[int, RelayedConnection] = {}
        self._put_control = self._send_control  # one object for all of them
        report, *others = self._stream.receive()
        _, fields = decode_body(report.data)
        self.name: str = fields["host"]
        self.agent_pid: int = fields["pid"]
        self.has_joined: bool = fields["is_joining"]
        self.key = f"{self.name} {self.agent_pid}" if self.has_joined else self.name
        reported: int = fields["cores"]
        self.cores = reported if self.has_joined else known_cores.get(short_name(self.name), reported)
        self.gpus: int = fields["gpus"]
        self.address: str
        self.master_address: str
        self.address, self.master_address = fields["addresses"]
        self._free_cores = self.cores
        self._free_gpus: int = self.gpus
        self._workers: set[AgentProcess] = set()  # those that have slots
        self.unanswered: set[AgentProcess] = set()
        self.silence = RunningClock()
        self.has_answered = False
        self.relay_pid: int | None = None
        self.loss = ""
        assert not others, "an agent that has got no request tells nothing else"
        events.loop.watch(self._stream, self.serve)

    # ---- slots ----

    def room(self, cores: int, gpus: int) -> int:
        """Return for how many ranks, each with so many cores and devices, there is room when all are free."""
        return min(self.cores // cores, self.gpus // gpus if gpus else self.cores)

    def free_room(self, cores: int, gpus: int) -> int:
        """Return the same for what is free."""
        return min(self._free_cores // cores, self._free_gpus // gpus if gpus else self._free_cores)

    def allocate(self, worker: AgentProcess) -> None:
        """Give a worker the slots that it needs."""
        self._workers.add(worker)
        self._free_cores -= worker.cores
        self._free_gpus -= worker.gpus

    def release(self, worker: AgentProcess) -> None:
        """Make the slots of a worker free again. A second time, or for one that has none, do nothing."""
        if worker in self._workers:
            self._workers.remove(worker)
            self._free_cores += worker.cores
            self._free_gpus += worker.gpus
        self._processes.pop(worker.number, None)

    # ---- answers ----

    def expect_answer(self, worker: AgentProcess) -> None:
        """Take note that the agent is to fork or end a worker."""
        if not self.unanswered:
            self.silence.restart()
        self.unanswered.add(worker)

    # ---- the connection ----

    @property
    def is_connected(self) -> bool:
        """False if the agent has ended, its host is gone, or `close` was called."""
        return self._stream.fileno() >= 0

    def start(self, process: AgentProcess, template: bytes) -> None:
        """Request a worker. What comes from it goes to its process.

        Args:
            process: The process.
            template: What the agent needs to know for this worker. It is sent if it is not that of the last one.
        """
        self._processes[process.number] = process
        if template != self._template:
            self.put(REQUEST, 0, 0, template)
            self._template = template
        self.put(REQUEST, 0, process.number, _FORK)

    def put(self, kind: int, stream: int, worker: int, data: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a frame soon. If the agent has ended, do nothing."""
        if not self.is_connected:
            return
        self._flush_later(0.0)  # first: without memory it fails, and then nothing is sent
        self._stream.put(kind, stream, worker, data, descriptors)

    def _flush_later(self, delay_s: float) -> None:
        if not self._is_flushing:
            self._events.loop.call_later(delay_s, self._on_flush_timer)
            self._is_flushing = True

    def _on_flush_timer(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what was put, without waiting for the loop."""
        if not self.is_connected:
            return
        try:
            self._stream.flush()
        except OSError:
            self._on_end(self)
            return
        if self._stream.waiting_bytes:  # the relay is busy
            self._flush_later(FLUSH_RETRY_S)

    def serve(self) -> None:
        """Take what has arrived."""
        if not self.is_connected:
            return
        try:
            for frame in self._stream.receive():
                self._take(frame)
        except (OSError, EOFError, ValueError):
            self._on_end(self)
        except BaseException:  # no memory: frames are lost that are not sent again
            self._on_end(self)
            raise

    def _take(self, frame: HostFrame) -> None:
        number = frame.worker
        if frame.kind == CONNECTED:
            connection = RelayedConnection(number, self._put_control)
            self._connections[number] = connection
            self._events.admit(connection)
        elif frame.stream == CONTROL:
            connection_or_none = self._connections.get(number)
            if connection_or_none is None:
                return
            if frame.data:
                connection_or_none.inbox.put(frame.data)
            else:
                connection_or_none.inbox.end()
        elif number in self._processes:
            self._processes[number].receive(frame.stream, frame.data)

    def _send_control(self, worker: int, body: bytes, descriptors: Sequence[int]) -> None:
        if not body:
            del self._connections[worker]
        self.put(DATA, CONTROL, worker, body, descriptors)

    def close(self) -> None:
        """Hang up, so that the agent ends, and its forkserver. Its workers are lost."""
        self._events.loop.unwatch(self._stream)
        self._stream.close()
        for process in list(self._processes.values()):
            process.lose_agent()
        for connection in list(self._connections.values()):
            connection.inbox.end()
        self._processes.clear()

    def after_fork_in_child(self) -> None:
        """Close the connection in a forked child: the agent stays the parent's."""
        self._stream.close()


def short_name(host: str) -> str:
    """Return the name of a host without its domain: many a scheduler knows hosts by it that call themselves otherwise."""
    return host.partition(".")[0]
