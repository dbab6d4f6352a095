"""One agent as its master sees it: the connection through the relay, and the slots of its host."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from pympipool._util.clocks import RunningClock
from pympipool.transport.fork_requests import send_request
from pympipool.transport.frames import LENGTH_BYTES, decode_body

if TYPE_CHECKING:
    from pympipool.backends.agent.process import AgentProcess

_REPORT_MAX_BYTES = 1 << 16


class AgentHost:
    """A host with an agent.

    Args:
        connection: The connection to the agent, on which its report has arrived.

    Attributes:
        name: The host's name.
        agent_pid: The process id of the agent there.
        cores, gpus: The number of cores and devices of the host.
        unanswered: Those of which the agent has not told yet that they were forked, or have ended after a signal.
        silence: The time since its last answer, while there are such workers.
        has_answered: It has forked a worker.

    Raises:
        OSError: The agent has ended already.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        _, report = decode_body(connection.recv(_REPORT_MAX_BYTES)[LENGTH_BYTES:])
        self.name: str = report["host"]
        self.agent_pid: int = report["pid"]
        self.cores: int = report["cores"]
        self.gpus: int = report["gpus"]
        self._free_cores: int = self.cores
        self._free_gpus: int = self.gpus
        self._workers: set[AgentProcess] = set()  # those that have slots
        self.unanswered: set[AgentProcess] = set()
        self.silence = RunningClock()
        self.has_answered = False

    def has_room(self, worker: AgentProcess) -> bool:
        """Return True if the cores and devices that a worker needs are free."""
        return worker.cores <= self._free_cores and worker.gpus <= self._free_gpus

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

    def expect_answer(self, worker: AgentProcess) -> None:
        """Take note that the agent is to fork or end a worker."""
        if not self.unanswered:
            self.silence.restart()
        self.unanswered.add(worker)

    def is_connected(self) -> bool:
        """Return False if the agent has ended, its host is gone, or `close` was called."""
        if self._connection.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return not poll.poll(0)  # it sends nothing more

    def send(self, request: bytes, descriptors: list[int]) -> None:
        """Send a request with the writing ends of the worker's pipes, or raise OSError at once."""
        send_request(self._connection, request, descriptors)

    def close(self) -> None:
        """Hang up, so that the agent ends, and its forkserver."""
        self._connection.close()
