"""Workers that agents start on their hosts: forks, in milliseconds each; MPI jobs and fresh interpreters as children of forks."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pympipool._util.import_path import import_path
from pympipool.backends.agent.process import AgentJobProcess, AgentProcess
from pympipool.backends.program import environment_snapshot, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.transport.bootstrap import NUMBER
from pympipool.transport.frames import encode_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.agent.jobs import Job
    from pympipool.backends.spawner import SpawnerEvents
    from pympipool.resources import Resources


class AgentSpawner(Spawner):
    """A spawner whose workers are started by agents.

    Args:
        resources: What each worker needs.
        agents: Shared by all spawners of one executor.
        without_agents: The spawner of such workers where agents do not start, or no host has room for such a worker. None:
            there is none, and such workers fail.
        job: What agents start for a worker in place of a fork. None: a fork.
    """

    is_queued = True
    has_links_of_its_own = False

    def __init__(
        self, resources: Resources, agents: Agents, without_agents: Spawner | None, job: Job | None = None
    ) -> None:
        self._resources = resources
        self._agents = agents
        self._without_agents = without_agents
        self._job = job
        self._template = b""  # of the last worker
        self._made_of: object = None  # what it was made of
        self.helpers = (agents.relay, agents)

    def attach(self, events: SpawnerEvents) -> None:
        """Take note of the supervisor."""
        self._agents.attach(events)
        if self._without_agents is not None:
            self._without_agents.attach(events)

    def prepare(self, request: LaunchRequest) -> bool:
        """Start the relay; return False until it listens: it starts together with the agents."""
        relay = self._agents.relay
        if relay.has_failed:
            self._agents.check()  # workers that wait for agents get the reason, before the next relay starts
        return relay.prepare(request, is_urgent=not self._agents.is_unusable)

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Request a worker, without waiting until a host has room for it.

        Raises:
            WorkerStartError: The relay does not start, or no host can ever have room.
        """
        cores, gpus = self._resources.total_cores, self._resources.gpus
        if self._agents.is_unusable or not self._agents.can_fit(cores, gpus):
            if self._without_agents is not None:
                return self._without_agents.start(request)
            self._check_whether_it_can_fit(cores, gpus)
        template = self._template_for(request, gpus)
        kind: Callable[..., AgentProcess] = AgentProcess if self._job is None else AgentJobProcess
        process = kind(self._agents, template, request.number, cores, gpus)
        self._agents.submit(process)
        return process

    def _check_whether_it_can_fit(self, cores: int, gpus: int, ranks: int = 1) -> None:
        """Refuse a worker that fits into no host, unless hosts are away: then its end tells why.

        Raises:
            WorkerStartError: No host can ever have room.
        """
        if not self._agents.can_fit(cores, gpus, ranks) and not self._agents.missing_hosts():
            raise self._agents.misfit(cores, gpus, ranks).error

    def _template_for(self, request: LaunchRequest, gpus: int) -> bytes:
        """Return what the agent gets once for many workers: how their environment differs from its own, and what to import."""
        own = self._own_variables(request)
        made_of = own, environment_snapshot(), [*sys.path], request.preload
        if self._made_of != made_of:  # usually many workers start at once
            changed, removed = self._find_changes(request, own)
            self._template = encode_body(("workers", changed, removed, import_path(), request.preload, gpus))
            self._made_of = made_of
        return self._template

    def _own_variables(self, request: LaunchRequest) -> dict[str, str]:
        """Return the variables that a worker has and the master has not, and the request's."""
        return {
            **request.environment,
            **self._agents.relay.environment(request),
            "PYMPIPOOL_CWD": request.cwd or os.getcwd(),
            NUMBER: "",  # the only difference between workers; the agent sets it
        }

    def _find_changes(self, request: LaunchRequest, own: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the variables of a worker that its agent has not, and those that it has and the worker has not."""
        launcher = self._agents.launcher
        environment = launcher.environment({**worker_environment(request), **own})
        environment.update(launcher.worker_variables(self._resources))
        if self._job is not None:
            environment = self._job.environment(environment)
            environment["PYMPIPOOL_JOB"] = self._job.encode()
        return self._agents.changes(request, environment)

    def close(self) -> None:
        """End the agents and the relay, and what the other spawner has left."""
        self._agents.close()
        self._agents.relay.close()
        if self._without_agents is not None:
            self._without_agents.close()

    def after_fork_in_child(self) -> None:
        """Close in a forked child the connections, which stay the parent's."""
        self._agents.after_fork_in_child()
        if self._without_agents is not None:
            self._without_agents.after_fork_in_child()
