"""Workers of one process on this host, each started as a fresh interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool._util.platform import IS_WINDOWS
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess

if TYPE_CHECKING:
    from pympipool.backends.spawner import SpawnerEvents


class LocalSpawner(Spawner):
    """A spawner that starts the worker's program directly.

    Raises:
        WorkerStartError: There is no Python interpreter to start.
    """

    def __init__(self) -> None:
        self._command = program_command()
        self._events: SpawnerEvents | None = None

    def attach(self, events: SpawnerEvents) -> None:
        """Take note of the supervisor, whose event loop is told what happens to processes of Windows."""
        self._events = events

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Start the one process of a worker.

        Raises:
            WorkerStartError: The system cannot start the process.
            ValueError: The worker has several ranks, which need mpiexec.
        """
        if request.ranks != 1:
            raise ValueError(f"a local worker has 1 rank, not {request.ranks}; several need MpiexecSpawner")
        if IS_WINDOWS:
            from pympipool.backends.local.process_windows import WindowsProcess

            assert self._events is not None  # the supervisor attaches itself before each start
            return WindowsProcess(self._command, worker_environment(request), request.cwd, self._events.loop.call)
        from pympipool.backends.child_process import ChildProcess

        return ChildProcess(self._command, worker_environment(request), request.cwd)
