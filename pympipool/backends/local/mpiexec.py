"""Workers of several ranks on this host: an MPI job for each, started by mpiexec.

    mpiexec                  our child, leader of a session of its own
      rank 0 ... rank N-1    each the worker's program (MPICH: below a proxy, in sessions of their own)

mpiexec is what tidies up after an MPI job, in /tmp and /dev/shm. So a worker is killed by killing its ranks; mpiexec
then gets a moment to notice, tidy up and end by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import BinaryIO, cast

from pympipool.backends.child_process import ChildProcess
from pympipool.backends.local.hydra_output import JobOutput
from pympipool.backends.mpi_library import Kind, find_launcher, loaded_library
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.shm_cleanup import remove_leftovers
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess

TIDY_UP_S = 1.0
"""How long mpiexec may take to end after its ranks; measured: MPICH 15 ms, Open MPI 260 ms."""

_OPTIONS = {
    # Only this host, also inside a SLURM job; and its name need not resolve.
    Kind.HYDRA: "-rmk user -launcher fork -hosts localhost -localhost 127.0.0.1 -n {ranks}",
    # More ranks than cores are allowed, and workers must not all be bound to the same first cores.
    Kind.OPEN_MPI: "--host localhost:{ranks} --oversubscribe --bind-to none -n {ranks}",
}

_LOCAL_ONLY = {
    "UCX_TLS": "^tcp",
    "OMPI_MCA_btl": "^tcp,ofi",
    "OMPI_MCA_mtl": "^ofi",
}
"""Settings that keep the ranks, all on this host, from opening network ports; what the user has set stays.

They also shorten the start of Open MPI from 1.2 s to 0.2 s."""

_ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Without these Open MPI refuses to run for root, who is the user in most containers."""

_ENDED_WITH_OTHERS = (0, -signal.SIGKILL)
"""Exit codes that mpiexec tells of ranks which it has killed because of another one (0: it has not waited for them)."""

_AGENTS = ("hydra_pmi_proxy", "prted", "orted")
"""Processes between mpiexec and the ranks; they end when the ranks have ended."""


class MpiexecSpawner(Spawner):
    """Starts the worker's program as the ranks of an MPI job on this host.

    Raises:
        WorkerStartError: mpi4py, an MPI library or the mpiexec that belongs to it is missing.
    """

    def __init__(self) -> None:
        self._command = program_command()
        library = loaded_library()
        self._launcher = find_launcher(library)
        self._more_options = ["-print-all-exitcodes"] if library.version.startswith("MPICH") else []  # see hydra.py

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Starts mpiexec for a worker.

        Raises:
            WorkerStartError: The system refuses.
        """
        path, kind = self._launcher
        environment = {**_LOCAL_ONLY, **worker_environment(order), "PYMPIPOOL_LAUNCHER": path}
        if kind is Kind.OPEN_MPI and os.geteuid() == 0:
            environment = {**_ROOT_MAY, **environment}
        options = _OPTIONS[kind].format(ranks=order.ranks).split()
        return MpiexecProcess([path, *self._more_options, *options, *self._command], environment, order.cwd, kind)


class MpiexecProcess(ChildProcess):
    """An mpiexec and its ranks."""

    noisy_exit = True  # MPICH's complains of connections that end, if it is ended while it starts

    def __init__(self, command: list[str], environment: dict[str, str], cwd: str | None, kind: Kind) -> None:
        super().__init__(command, environment, cwd)
        self._job_output = JobOutput(self.stdout) if kind is Kind.HYDRA else None
        self.stdout = cast(BinaryIO, self._job_output or self.stdout)
        self._started_s = time.time()
        self._last_resort: threading.Timer | None = None
        self._ranks: list[int] = []

    def add_rank(self, pid: int) -> None:
        """A rank is ready, which is this process."""
        self._ranks.append(pid)

    def poll(self) -> int | None:
        """The exit code of mpiexec, which is that of a rank that failed; None as long as it runs.

        A signal that ended a rank is 128 + N with Open MPI. With MPICH it is -N once `stdout` has been read to its end,
        N before.
        """
        code = super().poll()
        if code is not None and self._job_output and self._job_output.signal == code:
            return -code
        return code

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """Which rank ended first, and its exit code: as mpiexec tells where it tells of each, else its own."""
        codes = self._job_output.exit_codes if self._job_output else []
        if rank >= len(codes):
            return rank, self.poll()
        by_themselves = [other for other, code in enumerate(codes) if code not in _ENDED_WITH_OTHERS]
        if codes[rank] in _ENDED_WITH_OTHERS and len(by_themselves) == 1:
            rank = by_themselves[0]
        return rank, codes[rank]

    def kill(self) -> None:
        """Kills the ranks and all they have started at once, and mpiexec if it does not follow soon.

        After the end of mpiexec: what ranks that have ended left behind.
        """
        running = self.poll() is None
        if running and self._last_resort is not None:
            return  # it is on its way
        ranks = _ranks_below(self.pid) if running else []
        if not ranks:
            super().kill()
            for rank in self._ranks:
                _kill_left_behind(rank)
            return
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(rank, signal.SIGKILL)
        self.terminate()
        self._signal_group(signal.SIGCONT)  # a stopped mpiexec would not notice
        self._last_resort = threading.Timer(TIDY_UP_S, super().kill)
        self._last_resort.daemon = True
        try:
            self._last_resort.start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            super().kill()

    def close(self) -> None:
        """Gives back what the system keeps of mpiexec, and what a job that failed left."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        failed = self.poll() != 0
        super().close()
        if failed:
            remove_leftovers(self._started_s)


def _kill_left_behind(leader: int) -> None:
    """Ends a process group whose leader has ended, as a rank is one: while the group lasts, its id is nobody else's.

    One whose leader lives is left alone. If that is a rank, its watchdog ends it with its group.
    """
    try:
        os.kill(leader, 0)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    except PermissionError:  # by now somebody else's
        pass


def _ranks_below(launcher: int) -> list[int]:
    """Process ids of all that mpiexec has started, itself and its agents aside, as far as the system tells (Linux)."""
    children_of = _children_of if os.path.exists("/proc/thread-self/children") else _children_of_all().get
    below = list(children_of(launcher) or ())
    for parent in below:
        below += children_of(parent) or ()
    return [rank for rank in below if _read(f"/proc/{rank}/comm").decode().strip() not in _AGENTS]


def _children_of(parent: int) -> list[int]:
    """Asks the system for the children of one process.

    To look at all processes takes milliseconds, and far longer where other threads keep the interpreter busy: for each
    file its lock is let go of, and has to be waited for.
    """
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for thread in os.listdir(f"/proc/{parent}/task"):
            children += map(int, _read(f"/proc/{parent}/task/{thread}/children").split())
    return children


def _children_of_all() -> dict[int, list[int]]:
    """The children of each process, where the system is not to be asked for those of one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        _, _, fields = _read(f"{folder}/stat").rpartition(b") ")
        if fields:
            children.setdefault(int(fields.split()[1]), []).append(int(folder.name))
    return children


def _read(path: str) -> bytes:
    """A small file of /proc; empty when its process has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 1 << 16)
        finally:
            os.close(descriptor)
    except OSError:
        return b""
