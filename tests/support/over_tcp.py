"""Backends whose workers run on this host but reach the master over TCP, as if they were on another."""

from __future__ import annotations

import dataclasses

from pympipool.backends.registry import Flux, LocalBackend
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import Spawner

NOWHERE = "@nobody listens here"
"""An address that exists on no host."""


class OverTcp(Spawner):
    """Starts workers as another spawner does, and hides the master's own address from them."""

    def __init__(self, spawner: Spawner, relay: Relay) -> None:
        self._spawner = spawner
        self._relay = relay

    def start(self, order):
        hidden = {"PYMPIPOOL_ADDRESS": NOWHERE}
        environment = {**order.environment, **self._relay.environment(order), **hidden}
        process = self._spawner.start(dataclasses.replace(order, environment=environment))
        process.last_words_s = 3.0
        return process

    def close(self):
        self._spawner.close()
        self._relay.close()

    def after_fork_in_child(self):
        self._spawner.after_fork_in_child()
        self._relay.after_fork_in_child()


class ThisMachineOverTcp(LocalBackend):
    """As backend "mpi", but for the link."""

    name = "tcp"

    def __init__(self):
        super().__init__()
        self._relay = Relay(local_only=True)

    def for_block(self, resources):
        return OverTcp(super().for_block(resources), self._relay)

    def for_call(self, resources):
        return OverTcp(super().for_call(resources), self._relay)

    def close(self):
        super().close()
        self._relay.close()

    def after_fork_in_child(self):
        super().after_fork_in_child()
        self._relay.after_fork_in_child()


class FluxOverTcp(Flux):
    """As backend "flux", but for the link."""

    name = "flux over tcp"

    def _make_spawner(self, resources):
        spawner = OverTcp(super()._make_spawner(resources), self._relay_for(resources))
        spawner.queues = True
        return spawner
