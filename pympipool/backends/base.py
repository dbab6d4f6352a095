"""What every backend promises, and what the backends of schedulers share.

    Executor --> Backend.for_block(resources), Backend.for_call(resources) --> Spawner --> pool

A backend makes the spawners of one executor and keeps what they share: a forkserver, a relay, a connection to flux.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import LaunchRequest, Spawner
    from pympipool.resources import Resources

PROBE_TIMEOUT_S = 3.0
"""Seconds that "auto" waits for a scheduler's answer where nothing in the environment announces a scheduler. A healthy
scheduler answers in 0.02 s."""


class Backend(Protocol):
    """A factory for the spawners of one executor.

    Attributes:
        name: The name by which users choose it.
        assigns_devices: True if the backend itself gives each worker its GPUs. Otherwise the executor's
            `ResourceAllocator` does.
    """

    name: str
    assigns_devices: bool

    def available_cores(self) -> int:
        """Return the number of cores of an executor that was given no number.

        Raises:
            ValueError: The backend cannot tell; the user must give a number.
        """

    def check(self, resources: Resources) -> None:
        """Raise ValueError for resources that this backend cannot provide."""

    def uses_agents(self, resources: Resources) -> bool:
        """Return True if agents fork the workers, which then need next to nothing of this process."""

    def agents_for(self, resources: Resources) -> Agents | None:
        """Return what starts such workers, and accepts agents on further hosts; None if there are no agents."""

    def for_block(self, resources: Resources) -> Spawner:
        """Return the spawner of workers that serve many calls.

        Raises:
            WorkerStartError: Software that the spawner needs is not installed.
        """

    def for_call(self, resources: Resources) -> Spawner:
        """Return the spawner of a worker for a single call (see `for_block`)."""

    def prepare(self, request: LaunchRequest) -> bool:
        """Start the processes that the spawners share (see `Spawner.prepare`)."""

    def close(self) -> None:
        """End the processes and threads that the spawners share."""

    def after_fork_in_child(self) -> None:
        """Close in a forked child what the child has inherited, and leave the processes to the parent."""


class WorkerlessBackend:
    """Base class of backends that start no worker: calls are drawn, or run in the script's own process."""

    assigns_devices = True  # calls see the devices that the script sees

    def available_cores(self) -> int:
        """Return the number of cores that this process may use."""
        return available_cores()

    def uses_agents(self, resources: Resources) -> bool:
        """Return False: there are no workers."""
        return False

    def agents_for(self, resources: Resources) -> Agents | None:
        """Return None: there are no workers."""
        return None

    def for_block(self, resources: Resources) -> Spawner:
        """Raise NotImplementedError: no worker is ever started."""
        raise NotImplementedError

    for_call = for_block

    def prepare(self, request: LaunchRequest) -> bool:
        """Raise NotImplementedError: no worker is ever started."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing: nothing was started."""

    def after_fork_in_child(self) -> None:
        """Do nothing: nothing was inherited."""


class SchedulerBackend(ABC):
    """Base class of backends that ask a scheduler for workers, on any host."""

    assigns_devices = True
    is_on_one_host = False  # no worker is on another host than the script

    def __init__(self) -> None:
        self._spawners: dict[Resources, Spawner] = {}
        self._relay: Relay | None = None
        self._agents: Agents | None = None

    @abstractmethod
    def _make_spawner(self, resources: Resources) -> Spawner: ...

    @abstractmethod
    def _make_launcher(self, relay: Relay) -> Launcher: ...

    @abstractmethod
    def uses_agents(self, resources: Resources) -> bool:
        """Return True if agents start such workers; otherwise each of them is a job, or a step of one."""

    def agents_for(self, resources: Resources) -> Agents | None:
        """Return the executor's agents, which are started with the first worker; None if they do not start such workers."""
        return self._shared_agents(resources) if self.uses_agents(resources) else None

    def _shared_agents(self, resources: Resources) -> Agents:
        from pympipool.backends.agent.agents import Agents

        if self._agents is None:
            relay = self._relay_for(resources)
            self._agents = Agents(self._make_launcher(relay), relay)
        return self._agents

    def for_block(self, resources: Resources) -> Spawner:
        """Return the spawner that starts a job, or a step of one, for each worker, which lasts for any number of calls."""
        return self.for_call(replace(resources, run_time_max=None))

    def for_call(self, resources: Resources) -> Spawner:
        """Return the spawner that starts a job, or a step of one, for each call."""
        spawner = self._spawners.get(resources)
        if spawner is None:
            spawner = self._spawners[resources] = self._make_spawner(resources)
        return spawner

    def _relay_for(self, resources: Resources) -> Relay:
        """Return the executor's relay to workers on other hosts. Its process starts with the first worker."""
        from pympipool.backends.relay_process import Relay

        if self._relay is None:
            self._relay = Relay(local_only=resources.hostname_localhost, is_on_one_host=self.is_on_one_host)
        return self._relay

    def prepare(self, request: LaunchRequest) -> bool:
        """Start the relay, if there is to be one; return False while it starts."""
        return self._relay is None or self._relay.prepare(request)

    def close(self) -> None:
        """End the agents and the relay."""
        if self._agents is not None:
            self._agents.close()
        if self._relay is not None:
            self._relay.close()

    def after_fork_in_child(self) -> None:
        """Close the connections to agents and relay in a forked child."""
        if self._agents is not None:
            self._agents.after_fork_in_child()
        if self._relay is not None:
            self._relay.after_fork_in_child()
