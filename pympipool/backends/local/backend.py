"""Backend "mpi": chooses how a worker of this machine is started.

    one core, many calls    HybridSpawner; LocalSpawner where processes must not fork
    one core, one call      ForkserverSpawner; LocalSpawner where processes must not fork
    several cores           MpiexecSpawner; on Windows WindowsMpiexecSpawner

The parameter `mp_context` and the environment variable PYMPIPOOL_START_METHOD can forbid forks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pympipool._util.platform import FORK_IS_SAFE, IS_WINDOWS, need_unix
from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool.backends.agent.agents import Agents
    from pympipool.backends.local.forkserver import ForkserverSpawner
    from pympipool.backends.spawner import LaunchRequest, Spawner
    from pympipool.resources import Resources


class LocalBackend:
    """Workers of this machine: processes, or MPI jobs for more than one core."""

    name = "mpi"
    assigns_devices = False

    def __init__(self) -> None:
        self._forkserver: ForkserverSpawner | None = None
        self._mpiexec: Spawner | None = None

    def available_cores(self) -> int:
        """Return the number of cores that this process may use."""
        return available_cores()

    def check(self, resources: Resources) -> None:
        """Raise ValueError for parameters that only a scheduler, or another system, understands."""
        resources.check_backend(self.name)
        start_method(os.environ, resources.mp_context)

    def uses_agents(self, resources: Resources) -> bool:
        """Return False: all workers are processes of this host."""
        return False

    def agents_for(self, resources: Resources) -> Agents | None:
        """Return None: this host needs no agent."""
        return None

    def for_block(self, resources: Resources) -> Spawner:
        """Return the spawner of workers that serve many calls.

        For one core, the first workers are fresh interpreters and further ones are forks. More cores need mpiexec.
        """
        if resources.cores > 1:
            return self._mpi_spawner()
        if start_method(os.environ, resources.mp_context) == "spawn":
            from pympipool.backends.local.direct import LocalSpawner

            return LocalSpawner()
        from pympipool.backends.local.hybrid import HybridSpawner

        return HybridSpawner()

    def for_call(self, resources: Resources) -> Spawner:
        """Return the spawner of a worker for a single call.

        For one core, the worker is a fork of the forkserver, or a fresh interpreter where processes must not fork. More
        cores need mpiexec.
        """
        if resources.cores > 1 or start_method(os.environ, resources.mp_context) == "spawn":
            return self.for_block(resources)
        from pympipool.backends.local.forkserver import ForkserverSpawner

        if self._forkserver is None:
            self._forkserver = ForkserverSpawner()
        return self._forkserver

    def _mpi_spawner(self) -> Spawner:
        if self._mpiexec is None and IS_WINDOWS:
            from pympipool.backends.local.mpiexec_windows import WindowsMpiexecSpawner

            self._mpiexec = WindowsMpiexecSpawner()
        elif self._mpiexec is None:
            from pympipool.backends.local.mpiexec import MpiexecSpawner

            self._mpiexec = MpiexecSpawner()
        return self._mpiexec

    def prepare(self, request: LaunchRequest) -> bool:
        """Return True: requests to the fork server wait until it has started."""
        return True

    def close(self) -> None:
        """End the forkserver."""
        if self._forkserver is not None:
            self._forkserver.close()

    def after_fork_in_child(self) -> None:
        """Close the connection to the forkserver in a forked child."""
        if self._forkserver is not None:
            self._forkserver.after_fork_in_child()


def start_method(environ: Mapping[str, str], wanted: str | None = None) -> str:
    """Return how processes for single calls, and further workers of one core, are started: "fork" or "spawn".

    The wish of the user decides, then PYMPIPOOL_START_METHOD. The default is "fork" on Linux and "spawn" elsewhere: what
    macOS's libraries keep running does not survive a fork, which is why multiprocessing spawns there too
    (https://docs.python.org/3/library/multiprocessing.html), and Windows has no fork.

    Raises:
        ValueError: PYMPIPOOL_START_METHOD has another value, or this system has no fork.

    Examples:
        >>> start_method({"PYMPIPOOL_START_METHOD": "spawn"})
        'spawn'
    """
    if wanted is not None and wanted != "spawn":
        need_unix(f"mp_context is {wanted!r}")
        return "fork"
    if wanted is not None:
        return "spawn"
    method = environ.get("PYMPIPOOL_START_METHOD") or ("fork" if FORK_IS_SAFE else "spawn")
    if method not in ("fork", "spawn"):
        raise ValueError(f"PYMPIPOOL_START_METHOD is {method!r}; it can be 'fork' or 'spawn'")
    if method == "fork":
        need_unix("PYMPIPOOL_START_METHOD is 'fork'")
    return method
