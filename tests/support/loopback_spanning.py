"""A backend whose MPI workers span two hosts, which this machine plays, each at a loopback address of its own."""

from __future__ import annotations

import dataclasses

from pympipool.backends.agent import spanning_spawner
from pympipool.backends.agent.agents import Agents
from pympipool.backends.agent.spanning_spawner import SpanningSpawner
from support.loopback_agents import LoopbackAgentsBackend, LoopbackLauncher
from support.loopback_tcp import UNREACHABLE_ADDRESS

ADDRESSES = {"one": "127.0.0.1", "two": "127.0.0.2"}


class EachHostLauncher(LoopbackLauncher):
    """Starts an agent for each host by a launch of its own."""

    hosts = LoopbackLauncher.names
    is_only_way = True


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
