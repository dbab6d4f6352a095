"""Workers of several ranks on Windows: an MPI job for each, started by the mpiexec of MS-MPI or Intel MPI.

    mpiexec                  child of the master, in a job object of its own
      smpd, or a proxy       starts the ranks
        rank 0 ... rank N-1  each the worker's program

All of them are members of the job object (`jobs_windows.py`), which is killed as a whole; so nothing of an MPI job can stay behind.
The system tells how the ranks have ended: each has a handle here from the moment it is ready.
"""

from __future__ import annotations

import _winapi
import contextlib
import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes import wintypes
from typing import TYPE_CHECKING, BinaryIO, cast

from pympipool.backends.local.hydra_output import JobOutput
from pympipool.backends.local.mpiexec import local_job_environment
from pympipool.backends.mpi_library import Kind, find_launcher, loaded_library
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest, Spawner

assert sys.platform == "win32"

from pympipool.backends.local.process_windows import (  # noqa: E402
    KILLED,
    WindowsProcess,
    exit_code_of,
    without_launcher,
)

if TYPE_CHECKING:
    from pympipool.backends.spawner import SpawnerEvents

_OPTIONS = {
    Kind.HYDRA: ["-localonly"],  # starts the ranks without the service of Intel MPI, which other hosts need
    Kind.MS_MPI: [],  # without a list of hosts, the ranks are on this one
}

_ABORTED = b"\r\njob aborted:\r\n[ranks] message\r\n"
"""How the report begins that the mpiexec of MS-MPI prints to stdout when a rank ends badly."""

_HOLD_BACK_MIN = 4

_PROCESS_TERMINATE, _PROCESS_QUERY_LIMITED_INFORMATION = 0x0001, 0x1000
_STILL_ACTIVE = 259

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.GetProcessTimes.argtypes = wintypes.HANDLE, *[ctypes.POINTER(ctypes.c_uint64)] * 4


class WindowsMpiexecSpawner(Spawner):
    """A spawner that starts the worker's program as the ranks of an MPI job on this host.

    Raises:
        WorkerStartError: mpi4py, an MPI library or the mpiexec that belongs to it is missing.
    """

    def __init__(self) -> None:
        self._command = program_command()
        self._launcher = find_launcher(loaded_library())
        self._events: SpawnerEvents | None = None

    def attach(self, events: SpawnerEvents) -> None:
        """Take note of the supervisor, whose event loop is told what happens to the processes."""
        self._events = events

    def start(self, request: LaunchRequest) -> MpiJob:
        """Start mpiexec for a worker.

        Raises:
            WorkerStartError: The system cannot start mpiexec.
        """
        assert self._events is not None  # the supervisor attaches itself before each start
        command, environment = without_launcher(self._command, worker_environment(request))
        options = [*_OPTIONS[self._launcher.kind], "-n", str(request.ranks)]
        environment = local_job_environment(self._launcher, environment)
        return MpiJob([self._launcher.path, *options, *command], environment, request.cwd, self._events.loop.call)


class MpiJob(WindowsProcess):
    """An mpiexec and its ranks."""

    noisy_exit = True

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None,
        call: Callable[[Callable[[], None]], object],
    ) -> None:
        self._ranks: dict[int, int] = {}  # handles of their processes
        super().__init__(command, environment, cwd, call)
        self.stdout = cast(BinaryIO, JobOutput(self.stdout, {_ABORTED: _HOLD_BACK_MIN}))

    def add_rank(self, rank: int, pid: int) -> None:
        """Take the process id of a rank that is ready."""
        with contextlib.suppress(OSError):  # it has ended already
            self._ranks[rank] = _winapi.OpenProcess(_PROCESS_TERMINATE | _PROCESS_QUERY_LIMITED_INFORMATION, False, pid)

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """Return the rank that ended first, and its exit code. Without a handle: the given rank, and the exit code of mpiexec."""
        ends = {other: _end_of(process) for other, process in self._ranks.items()}
        ended = {other: end for other, end in ends.items() if end is not None}
        if rank not in ended:
            return super().exit_status_of(rank)
        first = min(ended, key=lambda other: (ended[other][0], other != rank))
        return first, ended[first][1]

    def kill(self) -> None:
        """Kill the job, and ranks that are no members: mpiexec may have started something before it became one."""
        super().kill()
        for process in self._ranks.values():
            with contextlib.suppress(OSError):  # it has ended already
                _winapi.TerminateProcess(process, KILLED)

    def close(self) -> None:
        """Release the processes, and kill what is left of the job."""
        while self._ranks:
            _winapi.CloseHandle(self._ranks.popitem()[1])
        super().close()


def _end_of(process: int) -> tuple[int, int] | None:
    """Return when a process has ended (in 100 ns), and its exit code; None while it runs."""
    code = _winapi.GetExitCodeProcess(process)
    if code == _STILL_ACTIVE:
        return None
    times = [ctypes.c_uint64() for _ in range(4)]  # of its start, its end, in the kernel, in its own code
    _kernel32.GetProcessTimes(process, *map(ctypes.byref, times))
    return times[1].value, exit_code_of(code)
