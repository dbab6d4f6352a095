"""A worker that an agent forks: as one that the forkserver of this host forks, but all that it says goes through the agent."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, BinaryIO, cast

from pympipool._util import exit_codes
from pympipool.backends.local.forked_process import POLL_INTERVAL_S
from pympipool.backends.local.hydra_output import JobOutput
from pympipool.backends.local.requested_process import RequestedProcess
from pympipool.errors import WorkerStartError
from pympipool.transport.frames import encode_body
from pympipool.transport.host_stream import PAUSE, REQUEST, RESUME, STATUS, STDERR, STDOUT
from pympipool.transport.inbox import Inbox

if TYPE_CHECKING:
    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.agent.host import AgentHost
    from pympipool.backends.agent.launch import LaunchFailure

DELIVERY_DELAY_S = 3.0
"""Seconds after the end of a worker in which messages from other hosts may still arrive through the relay."""

LOST_DELIVERY_DELAY_S = 0.5
"""The same after the end of its agent: it runs on without one, until the master hangs up."""

KILL_TIMEOUT_S = 20.0
"""Seconds that a worker may take to end after it was killed: its host may be gone, and that takes a while to be known."""


class AgentProcess(RequestedProcess):
    """A worker that an agent forks, as soon as a host has room for it. It is lost when its agent ends.

    Args:
        agents: The agents, which send the requests.
        template: What the agent gets once for many such workers.
        number: The worker's number.
        cores: The number of cores that it occupies on its host.
        gpus: The number of devices.

    Attributes:
        ranks: Into how many parts of so many cores and devices it may be divided, for several hosts.
        agent: The host with the agent that has got the request; None while the worker waits for a host.
    """

    delivery_delay_s = DELIVERY_DELAY_S
    kill_timeout_s = KILL_TIMEOUT_S
    exit_grace_s = 2.0
    ranks = 1

    def __init__(self, agents: Agents, template: bytes, number: int, cores: int, gpus: int) -> None:
        super().__init__(template)
        self.host = socket.gethostname()
        self.number = number
        self.cores = cores
        self.gpus = gpus
        self.agent: AgentHost | None = None
        self._agents = agents
        self._loss: str | None = None
        self._failure: LaunchFailure | None = None
        self._inboxes = [Inbox(partial(self._pause, stream)) for stream in (STDOUT, STDERR)]
        self._inboxes.append(Inbox())
        self.stdout, self.stderr, _ = (cast(BinaryIO, inbox) for inbox in self._inboxes)

    # ---- what comes from the agent ----

    def fileno(self) -> int | None:
        return None

    def waitable(self) -> Inbox:
        return self._inboxes[STATUS]

    def receive(self, stream: int, data: bytes) -> None:
        """Take bytes of one of the worker's pipes; b"" is its end."""
        if data:
            self._inboxes[stream].put(data)
        else:
            self._inboxes[stream].end()

    def lose_agent(self) -> None:
        """Take note that nothing more will come."""
        for stream, inbox in enumerate(self._inboxes):
            if stream == STATUS or self.pid:  # another agent may serve a request that was not answered
                inbox.end()

    def _pause(self, stream: int, is_on: bool) -> None:
        if self.agent is not None:
            self.agent.put(PAUSE if is_on else RESUME, stream, self.number)

    def _read_records(self) -> bytes | None:
        return None if self._loss is not None else self._inboxes[STATUS].read()

    # ---- the request ----

    def send_to_agent(self, agent: AgentHost) -> None:
        """Send the request to the agent of a host."""
        assert self._request is not None
        agent.start(self, self._request)
        self.agent = agent
        self.host = agent.name

    def _ask_again(self) -> None:
        self._inboxes[STATUS] = Inbox()
        self._agents.on_lost(self)

    def _note_answer(self) -> None:
        """Do nothing: see `_take_record`."""

    def _withdraw(self) -> None:
        self._agents.withdraw(self)

    def fail(self, error: WorkerStartError) -> None:
        """Give the request up. The end of the status tells the pool."""
        super().fail(error)
        self._inboxes[STATUS].end()

    def fail_launch(self, failure: LaunchFailure) -> None:
        """Give the request up: there is no agent that could serve it."""
        self._failure = failure
        self.fail(failure.error)
        if failure.outage is not None:
            self.start_failure = None  # `outage` tells it

    def outage(self, last_stderr: Iterable[str]) -> str | None:
        return None if self._failure is None else self._failure.outage

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        return self._failure is not None and self._failure.is_permanent

    def has_started(self) -> bool:
        return self.agent is not None

    def pending_reason(self) -> str:
        if self.pid or self.agent is None:
            return ""
        return f": the agent on {self.host} (pid {self.agent.agent_pid}) has not answered"

    def loss_reason(self) -> str | None:
        return None if self._loss is None else self._loss + self._agents.last_words()

    def is_delivering(self) -> bool:
        return self._loss is None and self._agents.relay.is_silent()

    def kill_unreachable(self) -> None:
        """Give a worker up whose host does not answer. It ends there by itself, without its master."""
        self.kill()
        if self.poll() is None:
            self._lose_parent()

    def _lose_parent(self) -> None:
        """Take a worker for lost whose agent is gone."""
        assert self.agent is not None
        self._loss = (
            f"the agent on {self.host} (pid {self.agent.agent_pid}), which had started it, has ended or does not answer"
            f"{self.agent.loss}"
        )
        self._exit_code = exit_codes.UNKNOWN
        self.exit_code_is_known = False
        self.delivery_delay_s = LOST_DELIVERY_DELAY_S

    # ---- the worker ----

    def _take_record(self, pid: int, exit_code: int) -> None:
        super()._take_record(pid, exit_code)
        self._agents.on_answer(self)

    def _check_process(self) -> None:
        """Give the agent up that does not tell the end of a killed worker."""
        if self.agent is None or not self._killed:
            return
        self._agents.check_host(self.agent)
        if not self.agent.is_connected and self._exit_code is None:
            self._lose_parent()

    def _signal(self, number: int) -> None:
        if self.agent is not None:
            self.agent.expect_answer(self)
            self.agent.put(REQUEST, 0, self.number, encode_body(("signal", self.number, number)))

    def wait(self, timeout_s: float | None = None) -> int | None:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while self.poll() is None and (deadline is None or monotonic() < deadline):
            for agent in self._serving():
                agent.flush()  # the loop may have crashed
                agent.serve()
            sleep(POLL_INTERVAL_S)
        return self._exit_code

    def _serving(self) -> Iterable[AgentHost]:
        """Return the agents that serve it."""
        return () if self.agent is None else (self.agent,)

    def close(self) -> None:
        self._withdraw()
        for inbox in self._inboxes:
            inbox.close()
        self._agents.release(self)


class AgentJobProcess(AgentProcess):
    """A job that an agent starts for a worker: mpiexec, or a fresh interpreter. It ends what it has started, when asked to."""

    noisy_exit = True  # as of `MpiexecProcess`

    def __init__(self, agents: Agents, template: bytes, number: int, cores: int, gpus: int) -> None:
        super().__init__(agents, template, number, cores, gpus)
        self._job_output = JobOutput(self.stdout)
        self.stdout = cast(BinaryIO, self._job_output)

    def poll(self) -> int | None:
        """Return the exit code: a rank that signal N has ended is N with MPICH, and -N once `stdout` has been read."""
        code = super().poll()
        return -code if code is not None and self._job_output.signal == code else code

    def _signal(self, number: int) -> None:
        """Ask the job to end: it kills its ranks within a second, which would survive it if it were killed."""
        super()._signal(signal.SIGTERM)
