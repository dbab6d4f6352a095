"""Backend "serial": no workers. Calls run in the script's own process, for debuggers (see `pympipool.pool.serial_engine`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool.backends.spawner import LaunchRequest, Spawner
    from pympipool.resources import Resources


class SerialBackend:
    """The backend of an executor without workers. Parameters for schedulers are accepted, so that scripts need no change."""

    name = "serial"
    assigns_devices = True  # calls see the devices that the script sees

    def available_cores(self) -> int:
        """Return the number of cores that this process may use."""
        return available_cores()

    def check(self, resources: Resources) -> None:
        """Raise ValueError for calls of several ranks: there is one process."""
        if resources.cores > 1:
            raise ValueError(
                f"cores is {resources.cores}; backend 'serial' runs calls in this process, which is one rank: use 1 core, or"
                " backend='mpi'"
            )

    def for_block(self, resources: Resources) -> Spawner:
        """Raise NotImplementedError: no worker is ever started."""
        raise NotImplementedError

    for_call = for_block

    def prepare(self, request: LaunchRequest) -> bool:
        """Raise NotImplementedError: no worker is ever started."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing: nothing was started."""

    def after_fork_in_child(self) -> None:
        """Do nothing: nothing was inherited."""
