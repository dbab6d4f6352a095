"""Workers of several ranks on this host: an MPI job for each, started by mpiexec.

    mpiexec                  child of the master, leader of a session of its own
      rank 0 ... rank N-1    each the worker's program (MPICH: below a proxy, in sessions of their own)

mpiexec cleans up after an MPI job, in /tmp and /dev/shm. So a worker is killed by killing its ranks. mpiexec then gets
a moment to notice, to clean up and to end by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import BinaryIO, cast

from pympipool._util import exit_codes
from pympipool._util.platform import SIGKILL
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.local.hydra_output import JobOutput
from pympipool.backends.local.job_processes import (
    agents_below,
    end_processes_with,
    is_agent,
    kill_orphans,
    ranks_below,
)
from pympipool.backends.mpi_library import Kind, Launcher, find_launcher, loaded_library
from pympipool.backends.program import program_command, without_outer_job, worker_environment
from pympipool.backends.shm_cleanup import remove_stale_shm, remove_stale_topology
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess

CLEANUP_TIMEOUT_S = 3.0
"""Seconds that mpiexec may take to end after its ranks, and to clean up: what it has in /tmp stays if it is killed first.
Measured: MPICH 15 ms, Open MPI 260 ms; with ten running processes for each core, Open MPI takes more than a second."""

_OPTIONS = {
    # Use only this host, also inside a SLURM job. The name of the host need not resolve.
    Kind.HYDRA: "-rmk user -launcher fork -hosts localhost -localhost 127.0.0.1 -n {ranks}",
    # Allow more ranks than cores, and do not bind all workers to the same first cores.
    Kind.OPEN_MPI: "--host localhost:{ranks} --oversubscribe --bind-to none -n {ranks}",
}

_LOCAL_ONLY = {
    "UCX_TLS": "^tcp",
    "OMPI_MCA_btl": "^tcp,ofi",
    "OMPI_MCA_mtl": "^ofi",
    "I_MPI_FABRICS": "shm",
}
"""Settings that keep the ranks from opening network ports, which they do not need on one host. Settings of the user
take precedence. These settings also shorten the start of Open MPI from 1.2 s to 0.2 s."""

NOT_BOUND = {"I_MPI_PIN": "off"}
"""The setting without which Intel MPI binds the ranks of all workers to the same first cores. That of the user takes precedence."""

_ALLOW_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Settings without which Open MPI refuses to run as root, which is the user in most containers."""

_KILLED_WITH_OTHERS = (0, -SIGKILL)
"""Exit codes that mpiexec reports for ranks that it has killed because another rank ended. 0: it has not waited for the
rank."""

_REPORT_CODES = ("MPICH", "Intel(R) MPI")
"""How the versions of libraries begin whose mpiexec has the option -print-all-exitcodes."""

_OF_LAUNCH = ("PYMPIPOOL_KEY", "PYMPIPOOL_WORKER")
"""Variables that together belong to one launch: ranks and agents are known by them when mpiexec has ended."""


class MpiexecSpawner(Spawner):
    """A spawner that starts the worker's program as the ranks of an MPI job on this host.

    Raises:
        WorkerStartError: mpi4py, an MPI library or the mpiexec that belongs to it is missing.
    """

    def __init__(self) -> None:
        self._command = program_command()
        library = loaded_library()
        self._launcher = find_launcher(library)
        # The output of this option is read by hydra_output.py.
        self._more_options = ["-print-all-exitcodes"] if library.version.startswith(_REPORT_CODES) else []

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Start mpiexec for a worker.

        Raises:
            WorkerStartError: The system cannot start mpiexec.
        """
        path, kind = self._launcher
        environment = local_job_environment(self._launcher, worker_environment(request))
        options = local_job_options(kind, request.ranks)
        return MpiexecProcess([path, *self._more_options, *options, *self._command], environment, request.cwd, kind)


def launch_command(ranks: int, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return mpiexec with its options, and its environment, for an MPI job on this host.

    Args:
        ranks: The number of ranks.
        environment: That of the ranks.

    Raises:
        WorkerStartError: mpi4py, an MPI library or the mpiexec that belongs to it is missing.
    """
    launcher = find_launcher(loaded_library())
    command = [launcher.path, *local_job_options(launcher.kind, ranks)]
    return command, local_job_environment(launcher, without_outer_job(environment))


def local_job_options(kind: Kind, ranks: int) -> list[str]:
    """Return the options with which mpiexec starts ranks on its own host alone."""
    return _OPTIONS[kind].format(ranks=ranks).split()


def local_job_environment(launcher: Launcher, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an mpiexec that starts ranks on its own host alone, made from that of a worker."""
    as_root = _ALLOW_ROOT if launcher.kind is Kind.OPEN_MPI and os.geteuid() == 0 else {}
    return {**_LOCAL_ONLY, **NOT_BOUND, **as_root, **environment, "PYMPIPOOL_LAUNCHER": launcher.path}


class MpiexecProcess(ChildProcess):
    """An mpiexec and its ranks."""

    noisy_exit = True  # an mpiexec of MPICH that is ended while it starts complains of connections that end

    def __init__(self, command: list[str], environment: dict[str, str], cwd: str | None, kind: Kind) -> None:
        super().__init__(command, environment, cwd)
        self._job_output = JobOutput(self.stdout) if kind is Kind.HYDRA else None
        self.stdout = cast(BinaryIO, self._job_output or self.stdout)
        self._started_s = time.time()
        self._kill_timer: threading.Timer | None = None
        self._ranks: list[int] = []
        self._ranks_expected = int(environment.get("PYMPIPOOL_RANKS", 0))
        self._variables = [f"{name}={environment[name]}" for name in _OF_LAUNCH if name in environment]
        self._agents: dict[int, int | None] = {}  # pidfds, by pid

    def add_rank(self, rank: int, pid: int) -> None:
        """Take the process id of a rank that is ready."""
        self._ranks.append(pid)
        if not self._agents:
            self._find_agents()

    def _find_agents(self) -> None:
        """Remember the agents while they can be found: they are no descendants of mpiexec once that has ended."""
        for pid in agents_below(self.pid):
            if pid not in self._agents:
                self._agents[pid] = exit_codes.open_pidfd(pid)

    def poll(self) -> int | None:
        """Return the exit code of mpiexec, which is that of a rank that failed; None while mpiexec runs.

        For a rank that was ended by signal N, the code is 128 + N with Open MPI. With MPICH it is N, and -N once
        `stdout` has been read to its end; until then it may also be that of a rank that was killed because another one has
        failed. With Intel MPI it is 255 until then, for other ends too.
        """
        code = super().poll()
        if code is None or code <= 0 or self._job_output is None:
            return code
        codes = self._job_output.exit_codes
        if any(codes):
            return next((one for one in codes if one not in _KILLED_WITH_OTHERS), min(codes))
        return -code if self._job_output.signal == code else code

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """Return the rank that ended first, and its exit code.

        Both come from mpiexec's report of all ranks. Without a report they are the given rank and the exit code of
        mpiexec.
        """
        codes = self._job_output.exit_codes if self._job_output else []
        if rank >= len(codes):
            return super().exit_status_of(rank)
        ended_first = [other for other, code in enumerate(codes) if code not in _KILLED_WITH_OTHERS]
        if codes[rank] in _KILLED_WITH_OTHERS and len(ended_first) == 1:
            rank = ended_first[0]
        return rank, codes[rank]

    def kill(self) -> None:
        """Kill the ranks and all that they have started, and mpiexec and its agents if they do not end soon after them.

        After the end of mpiexec, kill what it has left behind.
        """
        running = self.poll() is None
        if running and self._kill_timer is not None:
            return  # killing is under way
        if running:
            self._find_agents()
        ranks = ranks_below(self.pid) if running else []
        if not ranks:
            super().kill()
            self._signal_agents(signal.SIGCONT)  # they end without mpiexec, and clean up, unless they are stopped
            for rank in self._ranks:
                kill_orphans(rank)
            return
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(rank, SIGKILL)
        self.terminate()
        self._signal_group(signal.SIGCONT)  # a stopped mpiexec would not notice
        self._signal_agents(signal.SIGCONT)
        self._kill_timer = threading.Timer(CLEANUP_TIMEOUT_S, self._kill_by_force)
        self._kill_timer.daemon = True
        try:
            self._kill_timer.start()
        except RuntimeError:  # this interpreter is ending, or the system has no thread left
            self._kill_by_force()

    def _kill_by_force(self) -> None:
        super().kill()
        self._signal_agents(SIGKILL)

    def _signal_agents(self, number: int) -> None:
        for pid, pidfd in list(self._agents.items()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if pidfd is not None:
                    signal.pidfd_send_signal(pidfd, number)
                elif is_agent(pid):
                    os.kill(pid, number)

    def close(self) -> None:
        """Release process id, descriptors and pipes, and remove the files that a failed job has left."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            if self._kill_timer.is_alive():  # it was never started if there were no threads left
                self._kill_timer.join(CLEANUP_TIMEOUT_S)
        while self._agents:
            _, pidfd = self._agents.popitem()
            if pidfd is not None:
                os.close(pidfd)
        failed = self.poll() != 0
        super().close()
        if failed:
            if len(self._ranks) < self._ranks_expected:  # ranks may be starting yet, and create files
                end_processes_with(self._variables, CLEANUP_TIMEOUT_S)
            remove_stale_shm(self._started_s)
            remove_stale_topology()
