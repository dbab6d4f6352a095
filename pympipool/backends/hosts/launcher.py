"""Starts the agent of each host, by a process of its own here.

A process for each host, also with mpiexec: one mpiexec for all hosts ends all agents when it loses one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pympipool.backends.agent.launcher import Launcher
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.hosts import remote_program
from pympipool.backends.hosts.shells import Direct, Shell, is_this_host
from pympipool.backends.program import worker_environment
from pympipool.backends.spawner import LaunchRequest

if TYPE_CHECKING:
    from pympipool.backends.spawner import WorkerProcess
    from pympipool.resources import Host


class HostLauncher(Launcher):
    """Starts agents on hosts that are known by name.

    Args:
        hosts: The hosts.
        shell: Starts a program on another host.
        hidden: Variables that tell of the job, and that workers do not have: an executor in a call is not to use all of the job.
    """

    is_only_way = True

    def __init__(self, hosts: Sequence[Host], shell: Shell, hidden: Sequence[str] = ()) -> None:
        self._slots = dict(hosts)
        self._shell = shell
        self._hidden = remote_program.HOST_VARIABLES.union(hidden)
        self.hosts = tuple(self._slots)
        self.end_timeout_s = shell.end_timeout_s

    def start(
        self, request: LaunchRequest, environment: Mapping[str, str], hosts: Sequence[str] | None
    ) -> WorkerProcess:
        """Start the agent of one host.

        Raises:
            WorkerStartError: The system cannot start the shell's program.
        """
        assert hosts is not None
        (host,) = hosts
        return HostProcess(host, self._slots[host], Direct() if is_this_host(host) else self._shell, environment)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment without the variables that belong to a host, or to the job."""
        return {name: value for name, value in environment.items() if name not in self._hidden}


class HostProcess(ChildProcess):
    """The process here that stands for the agent of a host.

    Args:
        host: The host's name.
        slots: The number of its cores for workers; None: those that the agent may use.
        shell: Starts it.
        environment: The environment of the agent, with the key.
    """

    def __init__(self, host: str, slots: int | None, shell: Shell, environment: Mapping[str, str]) -> None:
        command = shell.command(host, remote_program.command(environment))
        with remote_program.program_input(
            environment, name=host, slots=slots, in_child=shell.needs_exit_code
        ) as program:
            super().__init__(command, worker_environment(LaunchRequest(0)), None, stdin=program.fileno())
        self._host, self._shell = host, shell

    def launch_failure(self, last_stderr: Sequence[str]) -> str:
        """Return why the agent does not start."""
        return self._shell.failure_reason(self._host, self.poll(), last_stderr)

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        return self._shell.is_final(self.poll(), list(last_stderr))

    def outage(self, last_stderr: Iterable[str]) -> str | None:
        return self._shell.outage(self._host, self.poll(), list(last_stderr))
