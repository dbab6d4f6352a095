"""Backend "serial": no workers. Calls run in the script's own process, for debuggers (see `pympipool.pool.serial_engine`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool.backends.base import WorkerlessBackend

if TYPE_CHECKING:
    from pympipool.resources import Resources


class SerialBackend(WorkerlessBackend):
    """The backend of an executor without workers. Parameters for schedulers are accepted, so that scripts need no change."""

    name = "serial"

    def check(self, resources: Resources) -> None:
        """Raise ValueError for calls of several ranks: there is one process."""
        if resources.cores > 1:
            raise ValueError(
                f"cores is {resources.cores}; backend 'serial' runs calls in this process, which is one rank: use 1 core, or"
                " backend='mpi'"
            )
