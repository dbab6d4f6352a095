"""Workers of one process on this host."""

from __future__ import annotations

from pympipool.backends.child_process import ChildProcess
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess


class LocalSpawner(Spawner):
    """Starts the worker's program directly.

    Raises:
        WorkerStartError: There is no Python interpreter to start.
    """

    def __init__(self) -> None:
        self._command = program_command()

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Starts the one process of a worker.

        Raises:
            WorkerStartError: The system refuses.
            ValueError: A worker of several ranks needs mpiexec.
        """
        if order.ranks != 1:
            raise ValueError(f"a local worker has 1 rank, not {order.ranks}; several need MpiexecSpawner")
        return ChildProcess(self._command, worker_environment(order), order.cwd)
