"""What starts the agents: one program on each host of a job.

    Agents ── start(request, hosts) ──> Launcher ──> a process here, such as srun ──> the agent's program on each host

A new scheduler is one more `Launcher`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from pympipool.backends.agent.launch import END_TIMEOUT_S
from pympipool.backends.program import program_command

if TYPE_CHECKING:
    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.resources import Resources


class Launcher(ABC):
    """A way to start one program on each host of a job.

    Attributes:
        cores_variable: Name of the environment variable that tells the number of the job's cores on each host; "" if there is
            none: those that the agent may use.
        name_variable: Name of the environment variable that tells the name by which the launcher knows each host; "" if that is
            the host's own.
        cores: The number of cores for workers on the hosts of which the launcher knows it, by their short names; others report it.
        hosts: The names of the hosts, if they are known: each is launched by itself. None: one launch starts all agents.
        host_count: The number of the hosts, if one launch starts all agents; 0: it is not known.
        job_hosts: Their names, if one launch starts all agents; none: they are not known.
        end_timeout_s: Seconds that its processes have to end by themselves after their agents.
        is_only_way: True if workers cannot be started without agents.
    """

    cores_variable = ""
    name_variable = ""
    cores: Mapping[str, int] = MappingProxyType({})
    hosts: Sequence[str] | None = None
    host_count = 0
    job_hosts: Sequence[str] = ()
    end_timeout_s = END_TIMEOUT_S
    is_only_way = False

    @abstractmethod
    def start(
        self, request: LaunchRequest, environment: Mapping[str, str], hosts: Sequence[str] | None
    ) -> WorkerProcess:
        """Start agents, and do not wait for them.

        Args:
            request: What an agent needs to know of the master. Its number tells launches apart.
            environment: The environment of the agents.
            hosts: The hosts; None: all of the job.

        Returns:
            The process that stands for the agents: it ends when they do.

        Raises:
            WorkerStartError: The launcher's program cannot be started.
        """

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with which the launcher's program is started, made from that of a worker."""
        return dict(environment)

    def worker_variables(self, resources: Resources) -> dict[str, str]:
        """Return the variables with which a worker sees that it is alone, where the launcher sets those of all agents."""
        return {}


def agent_command() -> list[str]:
    """Return the command line of the agent's program."""
    return program_command("pympipool.worker.agent", "pympipool_agent")
