"""Workers of one process on this host, each started as a fresh interpreter."""

from __future__ import annotations

from pympipool.backends.child_process import ChildProcess
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess


class LocalSpawner(Spawner):
    """A spawner that starts the worker's program directly.

    Raises:
        WorkerStartError: There is no Python interpreter to start.
    """

    def __init__(self) -> None:
        self._command = program_command()

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Start the one process of a worker.

        Raises:
            WorkerStartError: The system cannot start the process.
            ValueError: The worker has several ranks, which need mpiexec.
        """
        if request.ranks != 1:
            raise ValueError(f"a local worker has 1 rank, not {request.ranks}; several need MpiexecSpawner")
        return ChildProcess(self._command, worker_environment(request), request.cwd)
