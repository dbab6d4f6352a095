"""What agents start for a worker in place of a fork: an MPI job on their host, or a fresh interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pympipool.backends.local.mpiexec import local_job_environment, local_job_options
from pympipool.backends.mpi_library import Launcher, find_launcher, loaded_library
from pympipool.backends.program import program_command
from pympipool.backends.slurm.srun import TASK_EPILOG


class Job(NamedTuple):
    """A command that an agent runs for a worker.

    Attributes:
        command: The program and its arguments.
        cleanup: What runs after it has failed; None: nothing.
        launcher: The mpiexec; None: the worker is one process.
    """

    command: list[str]
    cleanup: list[str] | None = None
    launcher: Launcher | None = None

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the command, made from that of a worker."""
        return dict(environment) if self.launcher is None else local_job_environment(self.launcher, environment)


def mpi_job(ranks: int) -> Job:
    """Return the MPI job of a worker on one host, by the mpiexec that belongs to mpi4py's library, at the same path there.

    Raises:
        WorkerStartError: mpi4py, an MPI library or its mpiexec is missing.
    """
    launcher = find_launcher(loaded_library())
    options = local_job_options(launcher.kind, ranks)
    return Job([launcher.path, *options, *program_command()], ["sh", str(TASK_EPILOG)], launcher)


def fresh_interpreter() -> Job:
    """Return the job of a worker whose process is to be started afresh."""
    return Job(program_command())
