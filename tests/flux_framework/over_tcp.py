"""The backend "flux" with workers that reach the master over TCP, as if they were on another host."""

from __future__ import annotations

from pympipool.backends.registry import Flux
from transport.over_tcp import OverTcp


class FluxOverTcp(Flux):
    """As backend "flux", but for the link."""

    name = "flux over tcp"

    def _make_spawner(self, resources):
        spawner = OverTcp(super()._make_spawner(resources), self._relay_for(resources))
        spawner.queues = True
        return spawner
