"""Agents in a flux instance: one job starts them on all hosts, beside the jobs whose cores flux counts.

    FluxLauncher.start ── a job that bypasses the scheduler ──> flux-shell ──> agent, on each host

The job has all cores and GPUs of its hosts, and takes none from other jobs (`--overlap` of SLURM): so MPI workers of several hosts,
which are jobs of their own, find what they need. pympipool counts what is used on each host. flux allows that to the owner of
the instance, by a plugin of its own (see `availability.can_bypass_scheduler`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pympipool.backends.agent.host import short_name
from pympipool.backends.agent.launcher import Launcher, agent_command
from pympipool.backends.flux.jobspec import OF_INSTANCES, make_jobspec
from pympipool.backends.flux.spawner import FluxProcess
from pympipool.backends.local.backend import start_method
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources

if TYPE_CHECKING:
    from pympipool.backends.flux.duration import DurationLimits
    from pympipool.backends.flux.spawner import FluxSession
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import LaunchRequest, WorkerProcess

_ONE_TASK = {"FLUX_JOB_SIZE": "1", "FLUX_JOB_NNODES": "1", "FLUX_TASK_RANK": "0", "FLUX_TASK_LOCAL_ID": "0"}
"""The variables of a job of one task, as flux would start a worker."""

_CRITICAL_RANKS = "0"
"""The shells without which flux ends the job: the first one, through which the output goes. Other hosts may be lost."""


END_TIMEOUT_S = 1.0
"""Seconds that the job has to end by itself after its agents; usually it takes a tenth of a second."""


class FluxHost(NamedTuple):
    """A host of an instance.

    Attributes:
        rank: The rank of its broker: of the first one, if there are several.
        cores: The number of cores.
        gpus: The number of GPUs.
        resources: The ids of cores and GPUs of that broker, in the notation of flux.
    """

    rank: int
    cores: int
    gpus: int
    resources: Mapping[str, str]


class FluxLauncher(Launcher):
    """Starts agents as one job of the flux instance.

    Args:
        hosts: The hosts of the instance, by name.
        session: Submits the job.
        relay: The agents connect to it.
        durations: The times that the instance allows.
    """

    end_timeout_s = END_TIMEOUT_S

    def __init__(
        self, hosts: Mapping[str, FluxHost], session: FluxSession, relay: Relay, durations: DurationLimits
    ) -> None:
        self._hosts = hosts
        self._session = session
        self._relay = relay
        self._durations = durations
        self.cores = {short_name(name): host.cores for name, host in hosts.items()}
        self.host_count = len(hosts)

    def start(
        self, request: LaunchRequest, environment: Mapping[str, str], hosts: Sequence[str] | None
    ) -> WorkerProcess:
        """Submit the job of the agents.

        Raises:
            WorkerStartError: The instance is gone, or does not have these hosts.
        """
        wanted = None if hosts is None else set(map(short_name, hosts))
        chosen = {name: host for name, host in self._hosts.items() if wanted is None or short_name(name) in wanted}
        if not chosen:
            raise WorkerStartError(f"flux has no host named {' or '.join(hosts or ())}, on which agents have ended")
        jobspec = make_jobspec(
            Resources(),
            agent_command(),
            name=f"{self._session.name}-agents-{request.number}",
            environment=environment,
            cwd=os.getcwd(),
            pmi="off",  # workers must not take themselves for ranks of this job
            duration_s=self._durations.seconds(Resources()),
        )
        system = jobspec["attributes"]["system"]
        system["shell"]["options"].update(OF_INSTANCES)
        system["alloc-bypass"] = {"R": resource_set(chosen)}
        connection = self._session.connection(request)
        return FluxProcess(connection, json.dumps(jobspec), Resources(), self._relay, critical_ranks=_CRITICAL_RANKS)

    def worker_variables(self, resources: Resources) -> dict[str, str]:
        """Return the variables of a job of one task."""
        return _ONE_TASK


def can_fork(resources: Resources, hosts: Mapping[str, FluxHost], environ: Mapping[str, str]) -> bool:
    """Return True if agents can start workers with these resources; otherwise each worker needs a job of its own.

    GPUs of several ranks are such a reason: flux gives each rank its own.

    Examples:
        >>> hosts, fork = {"a": FluxHost(0, 4, 1, {})}, {"PYMPIPOOL_START_METHOD": "fork"}
        >>> can_fork(Resources(cores=4), hosts, fork), can_fork(Resources(cores=5), hosts, fork)
        (True, False)
        >>> can_fork(Resources(step=True), hosts, fork), can_fork(Resources(), {}, fork)
        (False, False)
    """
    if resources.needs_scheduler or start_method(environ, resources.mp_context) != "fork":
        return False
    if resources.cores > 1 and resources.gpus:
        return False
    return any(resources.total_cores <= host.cores and resources.gpus <= host.gpus for host in hosts.values())


def hosts_of(resources: Mapping[str, Any], names: Sequence[str]) -> dict[str, FluxHost]:
    """Return the hosts of an instance, by name. Brokers on one host count as one, with the cores of all.

    Args:
        resources: What the instance has (flux RFC 20).
        names: The names of the hosts, in the order of their ranks.

    Examples:
        >>> children = {"core": "0-3", "gpu": "0"}
        >>> found = hosts_of({"execution": {"R_lite": [{"rank": "0-1,3", "children": children}]}}, ["a", "b", "a"])
        >>> found["a"]
        FluxHost(rank=0, cores=8, gpus=1, resources={'core': '0-3', 'gpu': '0'})
        >>> found["b"].rank
        1
    """
    ranks = {rank: one["children"] for one in resources["execution"]["R_lite"] for rank in _ids(one["rank"])}
    hosts: dict[str, FluxHost] = {}
    for name, (rank, children) in zip(names, sorted(ranks.items()), strict=True):
        cores, gpus = (len([*_ids(children.get(kind, ""))]) for kind in ("core", "gpu"))
        first = hosts.get(name, FluxHost(rank, 0, gpus, children))
        hosts[name] = first._replace(cores=first.cores + cores)
    return hosts


def resource_set(hosts: Mapping[str, FluxHost]) -> dict[str, Any]:
    """Return all that some hosts have, as flux describes the resources of a job (RFC 20)."""
    ordered = sorted(hosts.items(), key=lambda item: item[1].rank)
    return {
        "version": 1,
        "execution": {
            "R_lite": [{"rank": str(host.rank), "children": dict(host.resources)} for _, host in ordered],
            "nodelist": [name for name, _ in ordered],
            "starttime": 0.0,
            "expiration": 0.0,  # none
        },
    }


def _ids(text: str) -> Iterator[int]:
    """Yield the numbers in a set of ids (RFC 22).

    Examples:
        >>> list(_ids("0-2,5"))
        [0, 1, 2, 5]
    """
    for part in filter(None, text.strip("[]").split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
