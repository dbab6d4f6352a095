"""Backends whose workers run on this host but reach the master over TCP, as if they were on another."""

from __future__ import annotations

import dataclasses

import psutil

from pympipool.backends import relay_process as relay_process_module
from pympipool.backends.flux.backend import FluxBackend
from pympipool.backends.local.backend import LocalBackend
from pympipool.backends.program import program_command
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import Spawner
from support.processes import children_with

UNREACHABLE_ADDRESS = "@no listener has this address"
"""An address that exists on no host."""


def run_before_relay(code: str, patches) -> None:
    """Have relays that start from now on run some code first."""

    def command(*args: str) -> list[str]:
        words = program_command(*args)
        place = words.index("-c") + 1
        words[place] = words[place].replace("from ", f"{code}\nfrom ", 1)
        return words

    patches.setattr(relay_process_module, "program_command", command)


def relay_process() -> psutil.Process:
    """Return the relay of the only executor that has one."""
    return children_with("transport.tcp.relay")[0]


class LoopbackTcpSpawner(Spawner):
    """Starts workers with another spawner, and replaces the master's own address so that they must use the relay.

    Attributes:
        hides_address: False to leave the address as it is: workers may use either.
    """

    hides_address = True

    def __init__(self, spawner: Spawner, relay: Relay) -> None:
        self._spawner = spawner
        self._relay = relay
        self.helpers = (*spawner.helpers, relay)

    def prepare(self, request):
        return self._relay.prepare(request)

    def start(self, request):
        hidden = {"PYMPIPOOL_ADDRESS": UNREACHABLE_ADDRESS} if self.hides_address else {}
        environment = {**request.environment, **self._relay.environment(request), **hidden}
        process = self._spawner.start(dataclasses.replace(request, environment=environment))
        process.delivery_delay_s = 3.0
        process.is_delivering = self._relay.is_silent
        return process

    def close(self):
        self._spawner.close()
        self._relay.close()

    def after_fork_in_child(self):
        self._spawner.after_fork_in_child()
        self._relay.after_fork_in_child()


class LoopbackTcpBackend(LocalBackend):
    """Backend "mpi" with the TCP link."""

    name = "tcp"

    def __init__(self):
        super().__init__()
        self._relay = Relay(local_only=True)

    def for_block(self, resources):
        return LoopbackTcpSpawner(super().for_block(resources), self._relay)

    def for_call(self, resources):
        return LoopbackTcpSpawner(super().for_call(resources), self._relay)

    def prepare(self, request):
        return self._relay.prepare(request)

    def close(self):
        super().close()
        self._relay.close()

    def after_fork_in_child(self):
        super().after_fork_in_child()
        self._relay.after_fork_in_child()


class LoopbackUnixBackend(LoopbackTcpBackend):
    """Backend "mpi" whose workers reach the relay by a Unix socket, as in a flux instance of one host."""

    def __init__(self):
        super().__init__()
        self._relay = Relay(local_only=False, is_on_one_host=True)


class FluxOverTcp(FluxBackend):
    """Backend "flux" with the TCP link."""

    name = "flux over tcp"

    def uses_agents(self, resources):
        return False

    def _make_spawner(self, resources):
        spawner = LoopbackTcpSpawner(super()._make_spawner(resources), self._relay_for(resources))
        spawner.is_queued = True
        return spawner
