"""A backend whose workers are forked by agents that run on this machine, and take themselves for other hosts."""

from __future__ import annotations

import dataclasses
import shlex

from pympipool.backends.agent.agents import Agents
from pympipool.backends.agent.launcher import Launcher, agent_command
from pympipool.backends.agent.spawner import AgentSpawner
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.local.backend import LocalBackend
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.relay_process import Relay
from support.loopback_tcp import UNREACHABLE_ADDRESS

CORES = 4
"""Cores of each host."""


class LoopbackLauncher(Launcher):
    """Starts an agent for each host, as children of a shell that ends when they have.

    Attributes:
        names: The hosts of the job.
        broken: What a launch does instead, as a command of the shell; "": it works.
        launches: The hosts of each launch, None for all.
        code: What the agents run first.
    """

    cores_variable = "CORES_OF_TEST_HOST"
    names = ("one", "two")

    def __init__(self, code: str = "") -> None:
        self.broken = ""
        self.code = code
        self.launches: list[list[str] | None] = []

    def start(self, request, environment, hosts):
        self.launches.append(hosts)
        commands = [shlex.join(command_of(name, self.code)) for name in hosts or self.names]
        script = "".join(f"{command} & " for command in commands) + "wait"
        environment = {**environment, self.cores_variable: str(CORES), "CUDA_VISIBLE_DEVICES": "0,1"}
        return ChildProcess(["sh", "-c", self.broken or script], environment, None)


def command_of(host, more=""):
    """Return the command of an agent that takes this host for another one."""
    command = agent_command()
    code = command.index("-c") + 1
    command[code] = f"import socket; socket.gethostname = lambda: {host!r}\n{command[code]}"
    command[code] = command[code].replace("from pympipool.worker.agent", f"{more}\nfrom pympipool.worker.agent")
    return command


class TcpAgentSpawner(AgentSpawner):
    """Hides the master's own address from workers, so that they must use the relay."""

    def start(self, request):
        if self._agents.is_unusable or not self._agents.can_fit(self._resources.total_cores, self._resources.gpus):
            return super().start(request)
        hidden = {**request.environment, "PYMPIPOOL_ADDRESS": UNREACHABLE_ADDRESS}
        return super().start(dataclasses.replace(request, environment=hidden))


class LoopbackAgentsBackend(LocalBackend):
    """Backend "mpi" whose workers of one core are forked by agents.

    Attributes:
        made: All backends that were made, the last one last.
        agent_code: What the agents run first.
    """

    name = "agents"
    assigns_devices = True
    made: list[LoopbackAgentsBackend] = []  # noqa: RUF012
    agent_code = ""

    def __init__(self):
        super().__init__()
        self._relay = Relay(local_only=True)
        self.launcher = LoopbackLauncher(self.agent_code)
        self.agents = Agents(self.launcher, self._relay)
        self.made.append(self)

    def uses_agents(self, resources):
        return resources.cores == 1

    def for_block(self, resources):
        return self.for_call(resources)

    def for_call(self, resources):
        if resources.cores > 1:
            return super().for_block(resources)
        return TcpAgentSpawner(resources, self.agents, LocalSpawner())

    def prepare(self, request):
        return self._relay.prepare(request)

    def close(self):
        self.agents.close()
        super().close()
        self._relay.close()

    def after_fork_in_child(self):
        super().after_fork_in_child()
        self.agents.after_fork_in_child()
        self._relay.after_fork_in_child()
