"""Workers of one process on this host, of which there may be many.

    the first two       a fresh interpreter each: there as soon as can be
    all further ones    forks of a template (see `pympipool.backends.local.forkserver`)

To start an interpreter and import what a worker needs takes 20 ms of a core, and on a shared file system hundreds of
look-ups of files; a fork takes 2 ms, but the template has to be there first.
"""

from __future__ import annotations

from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess

FRESH = 2
"""So many workers are fresh interpreters. Measured on 2 cores: 16 workers are all there after 110 ms instead of 320, and 64
after 210 instead of 1300."""


class HybridSpawner(Spawner):
    """Starts a few workers directly, and has further ones forked, those included that take the place of others."""

    def __init__(self) -> None:
        self._direct = LocalSpawner()
        self._template = ForkserverSpawner()
        self._left = FRESH

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Starts the one process of a worker.

        Raises:
            WorkerStartError: The system refuses.
            ValueError: A worker of several ranks needs mpiexec.
        """
        if self._left == 0:
            return self._template.start(order)
        worker = self._direct.start(order)
        self._left -= 1
        return worker

    def close(self) -> None:
        """Ends the template; its workers go on."""
        self._template.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of the template."""
        self._template.after_fork_in_child()
