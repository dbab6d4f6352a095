"""Backend "flux": agents in the user's flux instance start the workers, or each of them is a job of an instance."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pympipool.backends.base import PROBE_TIMEOUT_S, SchedulerBackend
from pympipool.backends.flux import availability
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.flux.agents import FluxHost
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Resources

URGENCY_MAX = 31
"""The largest urgency of a job of flux."""


class FluxBackend(SchedulerBackend):
    """Workers on the hosts of the flux instance that the script runs in, or can reach.

    Raises:
        WorkerStartError: flux cannot be used here.
    """

    name = "flux"

    def __init__(self) -> None:
        from pympipool.backends.flux.agents import hosts_of  # only here, as other backends do not need it
        from pympipool.backends.flux.spawner import FluxSession

        self._size = availability.size_of_instance()
        super().__init__()
        self._session = FluxSession()
        self.is_on_one_host = availability.is_on_one_host()
        self._hosts: dict[str, FluxHost] = {}  # those that can have agents
        if availability.can_bypass_scheduler():
            self._hosts = hosts_of(self._size.resources, self._size.names)

    def available_cores(self) -> int:
        """Return the number of cores of the instance."""
        return self._size.cores

    def check(self, resources: Resources) -> None:
        """Raise ValueError for parameters that flux does not have.

        Raises:
            TypeError: resources.executor is not a FluxExecutor.
        """
        if resources.executor is not None:
            check_executor(resources.executor)
        check_resources(resources)

    def uses_agents(self, resources: Resources) -> bool:
        """Return True for workers that need no job of their own, in an instance of the user."""
        from pympipool.backends.flux.agents import can_fork

        return can_fork(resources, self._hosts, os.environ)

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.agent.jobs import mpi_job
        from pympipool.backends.agent.spawner import AgentSpawner
        from pympipool.backends.flux.spawner import FluxSpawner

        relay = None if self.is_on_one_host else self._relay_for(resources)
        spawner = FluxSpawner(resources, self._session, relay, self._size.durations)
        agents = self.agents_for(resources)
        if agents is None:
            return spawner
        try:
            job = mpi_job(resources.cores) if resources.cores > 1 else None
        except WorkerStartError:  # there is no mpiexec, and flux needs none
            return spawner
        return AgentSpawner(resources, agents, spawner, job)

    def _make_launcher(self, relay: Relay) -> Launcher:
        from pympipool.backends.flux.agents import FluxLauncher

        return FluxLauncher(self._hosts, self._session, relay, self._size.durations)

    def close(self) -> None:
        """End the agents, the relay, the job reaper and the connection to flux."""
        super().close()
        self._session.close()

    def after_fork_in_child(self) -> None:
        """Close the connections to agents, relay and job reaper in a forked child."""
        super().after_fork_in_child()
        self._session.after_fork_in_child()


def check_resources(resources: Resources) -> None:
    """Raise ValueError for what jobs of flux do not have."""
    resources.check_backend("flux")
    if resources.priority is not None and resources.priority > URGENCY_MAX:
        raise ValueError(
            f"priority is {resources.priority}; with flux it is the urgency of a job, at most {URGENCY_MAX}"
        )
    if resources.executor_nesting and resources.cores > 1:
        raise ValueError(
            f"executor_nesting is True with {resources.cores} cores; a worker with a flux instance of its own is one process:"
            " use cores=1, and threads_per_core for the cores of its instance"
        )


def check_executor(executor: Any) -> None:
    """Raise TypeError if executor is not a `flux.job.FluxExecutor`. Does not import flux."""
    classes = type(executor).__mro__
    if not any(one.__name__ == "FluxExecutor" and one.__module__.partition(".")[0] == "flux" for one in classes):
        raise TypeError(f"executor is {executor!r}; it must be a flux.job.FluxExecutor")


def unavailable_reason() -> str | None:
    """Return why "auto" cannot use flux here, or None if it can."""
    return availability.unavailable_reason(
        availability.BROKER_TIMEOUT_S if "FLUX_URI" in os.environ else PROBE_TIMEOUT_S
    )
