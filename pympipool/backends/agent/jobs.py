"""What agents start for a worker in place of a fork: an MPI job on their host or on several, or a fresh interpreter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pympipool.backends.local.mpiexec import NOT_BOUND, local_job_environment, local_job_options
from pympipool.backends.mpi_library import Kind, Launcher, Library, find_launcher, loaded_library
from pympipool.backends.program import program_command
from pympipool.backends.slurm.srun import TASK_EPILOG
from pympipool.errors import WorkerStartError

_OF_MPIEXEC = {"PATH", "LD_LIBRARY_PATH", "HOME"}
"""The variables that an mpiexec for several hosts has, beside its own settings: it tells all of its variables to its proxies,
and all in the network can read that. The others come to the ranks from their agents."""

_SETTINGS_OF_MPIEXEC = ("HYDRA_", "MPIEXEC_")

_NOT_OF_MPIEXEC = "HYDRA_LAUNCHER_AUTOFORK"  # 0 changes how it prints commands, and MPICH 5.0.2 crashes then


class Job(NamedTuple):
    """A command that an agent runs for a worker.

    Attributes:
        command: The program and its arguments.
        cleanup: What runs after it has failed; None: nothing.
        launcher: The mpiexec; None: the worker is one process.
        variables: The names of the variables that it has; None: all of the worker.
    """

    command: list[str]
    cleanup: list[str] | None = None
    launcher: Launcher | None = None
    variables: list[str] | None = None

    def encode(self) -> str:
        """Return what the process gets that runs the command."""
        return json.dumps([self.command, self.cleanup, self.variables])

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


def can_span(library: Library) -> bool:
    """Return True if the mpiexec of an MPI library lets others start its proxies."""
    return library.kind is Kind.HYDRA and not library.version.startswith("Intel")


def spanning_launcher(ranks: int) -> Launcher:
    """Return the mpiexec for a worker on several hosts: one that lets others start its proxies.

    Raises:
        WorkerStartError: mpi4py, an MPI library or its mpiexec is missing, or cannot do that.
    """
    library = loaded_library()
    if not can_span(library):
        raise WorkerStartError(
            f"a worker of {ranks} ranks fits into none of the hosts, and mpi4py loads {library.version}: without SLURM or flux only"
            " MPICH and its relative MVAPICH start the ranks of a worker on several hosts (`pip install mpi4py mpich`). With this"
            " library use fewer cores, or run the script in a job of SLURM or flux"
        )
    return find_launcher(library)


def head_of_spanning_job(launcher: Launcher, hosts: Mapping[str, int], variables: Iterable[str]) -> Job:
    """Return the mpiexec of a worker on several hosts, which prints the commands of its proxies, and waits for these.

    Args:
        launcher: The mpiexec.
        hosts: How many ranks the hosts have, by address. It is started on the first of them.
        variables: The names of its variables.
    """
    names = ",".join(f"{address}:{ranks}" for address, ranks in hosts.items())
    options = f"-rmk user -launcher manual -hosts {names} -localhost {next(iter(hosts))} -genvnone -wdir / -n"
    command = [launcher.path, *options.split(), str(sum(hosts.values())), *program_command()]
    return Job(command, variables=[*variables])


def environment_of_head(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of that mpiexec, made from that of a worker."""
    return {
        name: value
        for name, value in environment.items()
        if name in _OF_MPIEXEC or (name.startswith(_SETTINGS_OF_MPIEXEC) and name != _NOT_OF_MPIEXEC)
    }


def proxy_of_spanning_job(command: list[str]) -> Job:
    """Return a proxy of that mpiexec, which starts the ranks of one host."""
    return Job(command, ["sh", str(TASK_EPILOG)])


def words_of_proxy(printed: bytes) -> list[str]:
    """Return the words of the command of a proxy as mpiexec has printed it, which quotes nothing: its path may have spaces.

    Examples:
        >>> words_of_proxy(b"/home/o'brien/my env/hydra_pmi_proxy --control-port 10.0.0.1:39591 --proxy-id 0 ")
        ["/home/o'brien/my env/hydra_pmi_proxy", '--control-port', '10.0.0.1:39591', '--proxy-id', '0']
    """
    path, mark, options = os.fsdecode(printed).partition(" --")
    return [path.strip('"'), *(mark + options).split()]


def environment_of_proxies(launcher: Launcher, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the proxies and their ranks, made from that of a worker."""
    return {**NOT_BOUND, **environment, "PYMPIPOOL_LAUNCHER": launcher.path}


def fresh_interpreter() -> Job:
    """Return the job of a worker whose process is to be started afresh."""
    return Job(program_command())
