"""Backends "ssh", "pbs", "lsf" and "gridengine": agents start workers on hosts that are known by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pympipool.backends.agent.placement import place
from pympipool.backends.base import SchedulerBackend
from pympipool.backends.hosts.shells import Shell, Ssh, is_this_host
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.hosts.scheduler import Scheduler
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Host, Resources


class HostsBackend(SchedulerBackend):
    """Workers that agents start on a list of hosts.

    Args:
        name: The name by which users choose it.
        hosts: The hosts, all with the number of their slots.
        shell: Starts the agents.
        arguments: Options of the user for the shell, with which it was made.
        hidden: Variables that tell of the job.
    """

    def __init__(
        self,
        name: str,
        hosts: Sequence[Host],
        shell: Shell,
        *,
        arguments: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self._hosts = hosts
        self._shell = shell
        self._arguments = tuple(arguments)
        self._hidden = hidden

    def available_cores(self) -> int:
        """Return the number of slots of all hosts."""
        return sum(host.slots or 1 for host in self._hosts)

    def check(self, resources: Resources) -> None:
        """Raise ValueError for what these hosts do not have."""
        resources.check_backend(self.name)
        if not self._fits_into_one(resources) and not self._fits(resources):
            threads = f" with threads_per_core={resources.threads_per_core}" if resources.threads_per_core > 1 else ""
            largest = max(self._hosts, key=lambda host: host.slots or 1)
            raise ValueError(
                f"a worker of {resources.cores} cores{threads} needs {resources.total_cores} cores, those of each rank on one host;"
                f" the hosts have {self.available_cores()}, and the largest, {largest.name}, has {largest.slots}: use fewer cores"
            )
        far = [host.name for host in self._hosts if not is_this_host(host.name)]
        if resources.hostname_localhost and far:
            raise ValueError(
                f"hostname_localhost is True, and host {far[0]} is another one, which could not connect: leave one of them out"
            )
        if self.name == "ssh" and resources.command_line_argument_lst != self._arguments:
            raise ValueError(
                f"command_line_argument_lst is {list(resources.command_line_argument_lst)}; the options of ssh are those of the"
                " executor, and calls cannot have others"
            )

    def _fits_into_one(self, resources: Resources) -> bool:
        """Return True if a host has enough cores for all ranks of a worker."""
        return any(resources.total_cores <= (host.slots or 1) for host in self._hosts)

    def _fits(self, resources: Resources) -> bool:
        """Return True if the hosts together have enough cores for the ranks of a worker."""
        return (
            place([(host.slots or 1) // resources.threads_per_core for host in self._hosts], resources.cores)
            is not None
        )

    def _may_span(self, resources: Resources) -> bool:
        """Return True if the ranks of a worker may be on several hosts: it has too many for one, or needs GPUs.

        How many GPUs a host has is known when its agent has started.
        """
        from pympipool.backends.agent.jobs import can_span
        from pympipool.backends.mpi_library import loaded_library

        if not self._fits_into_one(resources):
            return True
        return resources.cores > 1 and resources.gpus > 0 and len(self._hosts) > 1 and can_span(loaded_library())

    def uses_agents(self, resources: Resources) -> bool:
        """Return True: nothing else starts workers there."""
        return True

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.agent.jobs import fresh_interpreter, mpi_job
        from pympipool.backends.agent.spawner import AgentSpawner
        from pympipool.backends.local.backend import start_method

        if self._may_span(resources):
            from pympipool.backends.agent.spanning_spawner import SpanningSpawner

            return SpanningSpawner(resources, self._shared_agents(resources))
        job = None
        if resources.cores > 1:
            job = mpi_job(resources.cores)
        elif start_method(os.environ, resources.mp_context) == "spawn":
            job = fresh_interpreter()
        return AgentSpawner(resources, self._shared_agents(resources), None, job)

    def _make_launcher(self, relay: Relay) -> Launcher:
        from pympipool.backends.hosts.launcher import HostLauncher

        return HostLauncher(self._hosts, self._shell, self._hidden)


def ssh_backend(hosts: Sequence[Host] | None, arguments: Sequence[str] = ()) -> HostsBackend:
    """Return the backend of hosts that are reached by ssh. Asks each of them what it has.

    Args:
        hosts: The hosts that the user has named.
        arguments: Options of the user for ssh.

    Raises:
        ValueError: There are no hosts.
        WorkerStartError: A host cannot be used; tells why.
    """
    from pympipool.backends.hosts.questions import ask

    if not hosts:
        raise ValueError(
            "backend is 'ssh' without hosts; name them: hosts=['a', 'b:8'], or hosts='path of a host file'"
        )
    shell = Ssh(arguments)
    answers = ask(hosts, shell)
    known = [host if host.slots else host._replace(slots=answers[host.name].cores) for host in hosts]
    return HostsBackend("ssh", known, shell, arguments=arguments)


def job_backend(scheduler: Scheduler) -> HostsBackend:
    """Return the backend of the hosts of the job that this process runs in.

    Raises:
        WorkerStartError: It runs in no job, or its hosts are not known, or what starts programs on them is missing.
    """
    problem = scheduler.unavailable_reason(os.environ)
    if problem is not None:
        raise WorkerStartError(
            f"backend {scheduler.backend!r} cannot be used: {problem}; run the script in a job ({scheduler.submit}), or use"
            " backend='mpi' for this machine alone"
        )
    hosts = scheduler.hosts_of_job(os.environ)
    return HostsBackend(scheduler.backend, hosts, scheduler.shell(), hidden=scheduler.variables)
