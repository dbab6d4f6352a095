"""A backend whose MPI workers span two hosts, which this machine plays, each at a loopback address of its own."""

from __future__ import annotations

import dataclasses

from pympipool.backends.agent import spanning_spawner
from pympipool.backends.agent.agents import Agents
from pympipool.backends.agent.spanning_spawner import SpanningSpawner
from pympipool.backends.child_process import ChildProcess
from support.loopback_agents import LoopbackAgentsBackend, LoopbackLauncher
from support.loopback_tcp import UNREACHABLE_ADDRESS

ADDRESSES = {"one": "127.0.0.1", "two": "127.0.0.2"}


class AwayProcess(ChildProcess):
    """Fails as the ssh to a host that is away, or if it is no outage, in another way."""

    def __init__(self, host, is_outage):
        super().__init__(["sh", "-c", "exit 255"], {}, None)
        self._host, self._is_outage = host, is_outage

    def launch_failure(self, last_stderr):
        return f"{self._host} has no power"

    def outage(self, last_stderr):
        return f"host {self._host} does not answer" if self._is_outage else None


class EachHostLauncher(LoopbackLauncher):
    """Starts an agent for each host by a launch of its own.

    Attributes:
        away: The hosts that are away, and whether that is an outage.
    """

    hosts = LoopbackLauncher.names
    is_only_way = True
    away: dict[str, bool] = {}  # noqa: RUF012

    def start(self, request, environment, hosts):
        if hosts[0] in self.away:
            self.launches.append(hosts)
            return AwayProcess(hosts[0], self.away[hosts[0]])
        return super().start(request, environment, hosts)


def addresses(hosts):
    """Return addresses that are different: those from which the agents have connected are one."""
    return [ADDRESSES[host.name] for host in hosts]


class TcpSpanningSpawner(SpanningSpawner):
    """Hides the master's own address from ranks, so that they must use the relay."""

    def start(self, request):
        hidden = {**request.environment, "PYMPIPOOL_ADDRESS": UNREACHABLE_ADDRESS}
        self._agents.learn_master(request)
        return super().start(dataclasses.replace(request, environment=hidden))


class LoopbackSpanningBackend(LoopbackAgentsBackend):
    """Backend whose workers of several cores may be on both hosts."""

    name = "spanning"

    def __init__(self):
        super().__init__()
        spanning_spawner.addresses = addresses
        self.launcher = EachHostLauncher()
        self.agents = Agents(self.launcher, self._relay)

    def uses_agents(self, resources):
        return True

    def for_call(self, resources):
        return TcpSpanningSpawner(resources, self.agents) if resources.cores > 1 else super().for_call(resources)

    def for_block(self, resources):
        return self.for_call(resources)
