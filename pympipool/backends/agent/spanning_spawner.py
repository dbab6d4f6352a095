"""The spawner of workers whose ranks are on several hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool._util.import_path import import_path
from pympipool.backends.agent.jobs import (
    Job,
    environment_of_head,
    environment_of_proxies,
    head_of_spanning_job,
    proxy_of_spanning_job,
    spanning_launcher,
)
from pympipool.backends.agent.placement import addresses
from pympipool.backends.agent.spanning import SpanningProcess
from pympipool.backends.agent.spawner import AgentSpawner
from pympipool.backends.program import worker_environment
from pympipool.errors import WorkerStartError
from pympipool.transport.bootstrap import NUMBER
from pympipool.transport.frames import encode_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.agent.host import AgentHost
    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.resources import Resources


class SpanningSpawner(AgentSpawner):
    """A spawner of MPI workers that may be larger than a host.

    Args:
        resources: What each worker needs.
        agents: Shared by all spawners of one executor.

    Raises:
        WorkerStartError: mpi4py, an MPI library or its mpiexec is missing, or cannot do that.
    """

    def __init__(self, resources: Resources, agents: Agents) -> None:
        super().__init__(resources, agents, None)
        self._launcher = spanning_launcher(resources.cores)

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Request a worker, without waiting until hosts have room for it.

        Raises:
            WorkerStartError: The relay does not start, or the hosts can never have room.
        """
        ranks, cores, gpus = self._resources.cores, self._resources.threads_per_core, self._resources.gpus_per_core
        self._check_whether_it_can_fit(cores, gpus, ranks)
        self._agents.learn_master(request)
        worker = self._environment(request)
        own, environment = environment_of_head(worker), environment_of_proxies(self._launcher, worker)

        def make_head(places: Sequence[tuple[AgentHost, int]]) -> bytes:
            at = addresses([host for host, _ in places])
            ranks_of = dict(zip(at, (ranks for _, ranks in places), strict=True))
            if len(ranks_of) < len(places):
                known = ", ".join(f"{host.name} at {address}" for (host, _), address in zip(places, at, strict=True))
                raise WorkerStartError(
                    f"hosts have the same address ({known}), so their ranks could not reach each other: leave out all but one of"
                    " them, or use workers that fit into one host"
                )
            job = head_of_spanning_job(self._launcher, ranks_of, own)
            return self._encode(request, own, job, 0)

        def make_proxy(command: list[str], ranks: int) -> bytes:
            return self._encode(request, environment, proxy_of_spanning_job(command), ranks * gpus)

        process = SpanningProcess(self._agents, request.number, (ranks, cores, gpus), make_head, make_proxy)
        self._agents.submit(process)
        return process

    def _environment(self, request: LaunchRequest) -> dict[str, str]:
        """Return the environment of a worker."""
        return self._agents.launcher.environment({**worker_environment(request), **self._own_variables(request)})

    def _encode(self, request: LaunchRequest, environment: Mapping[str, str], job: Job, gpus: int) -> bytes:
        """Return what an agent gets for a part of the worker."""
        command = {"PYMPIPOOL_JOB": job.encode(), NUMBER: ""}
        changed, removed = self._agents.changes(request, {**environment, **command})
        return encode_body(("workers", changed, removed, import_path(), (), gpus))
