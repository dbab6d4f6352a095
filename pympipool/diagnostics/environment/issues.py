"""Find issues: what is wrong here, and what to do.

Each rule uses only the probed facts, so it can be read and tested by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pympipool._util.platform import HAS_SHM_FOLDER
from pympipool.diagnostics.environment.machine import Installation, Machine
from pympipool.diagnostics.environment.mpi import Mpi
from pympipool.diagnostics.environment.schedulers import Schedulers
from pympipool.resources import FILES_BESIDE, FILES_PER_WORKER

SHARED_MEMORY_MIN = 16 << 20
"""Bytes that should be free in /dev/shm. MPICH 5 takes 1 MB of it for a job of two ranks, other MPI libraries more."""


@dataclass(frozen=True)
class Issue:
    """Something that is wrong, or worth knowing.

    Attributes:
        message: Description of the issue.
        remedy: What to do about it; empty if the message says so.
        serious: True if something does not work because of it; otherwise it is only worth knowing.
    """

    message: str
    remedy: str = ""
    serious: bool = True


def find_issues(installation: Installation, machine: Machine, mpi: Mpi, schedulers: Schedulers) -> Iterator[Issue]:
    """Yield all issues, the serious ones first."""
    found = [
        *_of_installation(installation),
        *_of_limits(machine),
        *_of_mpi(mpi, machine),
        *_of_schedulers(schedulers),
        *_of_processors(machine),
    ]
    yield from sorted(found, key=lambda issue: not issue.serious)


def _of_installation(installation: Installation) -> Iterator[Issue]:
    if installation.compiled is not None:
        yield Issue(
            f"the compiled part of pympipool cannot be imported: {installation.compiled}",
            f"install it for this Python, in a clone of pympipool: {installation.executable} -m pip install --force-reinstall"
            " --no-deps . (or make install)",
        )


def _of_limits(machine: Machine) -> Iterator[Issue]:
    limits, cores = machine.limits, machine.cores.usable
    needed = FILES_BESIDE + FILES_PER_WORKER * cores
    most = limits.open_files_max  # executors raise the soft limit themselves
    if most is not None and most < needed:
        yield Issue(
            f"this process may open {most} files; workers on {cores} cores need about {needed}",
            f"ask for a higher hard limit than {most} (limits.conf)",
        )
    if limits.processes is not None and limits.processes < 2 * cores + 16:
        yield Issue(
            f"at most {limits.processes} processes and threads are allowed here (ulimit -u, or pids.max of the cgroup); a"
            " worker needs at least two",
            "use few workers (max_workers), or ask for a higher limit",
        )
    if machine.temporary is None:
        yield Issue("no folder for temporary files is writable", "export TMPDIR=FOLDER, a folder that you may write to")
    elif machine.temporary_wanted not in (None, machine.temporary):
        yield Issue(
            f"TMPDIR is {machine.temporary_wanted!r}, which is not writable: Python takes {machine.temporary}, but"
            " other programs (such as Open MPI's mpiexec) may fail",
            "export TMPDIR=FOLDER, a folder that you may write to",
        )
    if not machine.anonymous_memory and machine.shared_memory is None:
        yield Issue(
            "memory cannot be shared here: there is neither memfd_create nor /dev/shm",
            "mount /dev/shm, or use a newer kernel than Linux 3.17",
        )


def _of_mpi(mpi: Mpi, machine: Machine) -> Iterator[Issue]:
    if mpi.error is not None:
        yield Issue(mpi.error, serious=mpi.installed)
        return
    if mpi.another_in_path:
        yield Issue(
            f"the mpiexec in PATH is {mpi.mpiexec_in_path}; pympipool uses {mpi.mpiexec}, which belongs to the library that"
            " mpi4py loads",
            serious=False,
        )
    folder = machine.shared_memory
    if not HAS_SHM_FOLDER:
        pass
    elif folder is None or not folder.writable:
        yield Issue(
            "/dev/shm is missing" if folder is None else "/dev/shm is not writable by this user",
            "most MPI libraries cannot start ranks without it: mount it, or chmod 1777 /dev/shm",
        )
    elif folder.free < SHARED_MEMORY_MIN:
        yield Issue(
            f"/dev/shm has only {folder.free >> 20} MB free of {folder.size >> 20} MB: MPI ranks share memory there, and die of"
            " SIGBUS or hang if it is full",
            "remove the files that ended programs left there (ls -l /dev/shm), or make it larger (containers: --shm-size=1g)",
        )
    if machine.rank is not None:
        yield Issue(
            f"this process is itself a rank of an MPI job ({machine.rank} is set)",
            "start scripts with plain python, without mpiexec or srun: pympipool starts the ranks of its workers itself",
            serious=False,
        )


def _of_schedulers(schedulers: Schedulers) -> Iterator[Issue]:
    slurm, flux = schedulers.slurm, schedulers.flux
    if slurm.step is not None and "slurm" in schedulers.skipped_backends:
        yield Issue(
            f'this is step {slurm.step} of job {slurm.job} of SLURM; "auto" takes its cores, and asks for no further steps',
            "to have workers on all nodes of the job, start the script with plain python, without srun",
            serious=False,
        )
    elif slurm.job is not None and "slurm" in schedulers.skipped_backends:
        yield Issue(
            f"this is job {slurm.job} of SLURM, but {schedulers.skipped_backends['slurm']}",
            "check whether `squeue --me` and `srun true` work in this job; without SLURM only this node is used (backend 'mpi')",
        )
    if flux.uri is not None and "flux" in schedulers.skipped_backends:
        yield Issue(
            f"this runs in an instance of flux (FLUX_URI is set), but {schedulers.skipped_backends['flux']}",
            "check whether `flux resource list` works here; without flux only this node is used (backend 'mpi')",
        )
    if slurm.mpi_plugins is not None and slurm.mpi_plugin is not None and slurm.mpi_plugin not in slurm.mpi_plugins:
        yield Issue(
            f"srun has no --mpi={slurm.mpi_plugin}, which the MPI library that mpi4py loads needs to connect its ranks;"
            f" it has: {', '.join(slurm.mpi_plugins) or 'none'}",
            "load the cluster's own MPI and install mpi4py for it, or name another plugin: Executor(pmi_mode=NAME)",
        )
    if schedulers.chosen == "slurm" and slurm.job is None:
        yield Issue(
            "SLURM answers, but this process runs in no job of it: each worker would be a job of its own, and wait in the queue",
            "run the script with sbatch or inside salloc; or use backend='mpi' for this machine alone",
            serious=False,
        )


def _of_processors(machine: Machine) -> Iterator[Issue]:
    cores, gpus = machine.cores, machine.gpus
    if cores.usable < cores.bound:
        yield Issue(
            f"the quota of this process's cgroup is {cores.usable} of {cores.bound} cores",
            "ask for more cores",
            serious=False,
        )
    elif cores.bound < cores.machine:
        yield Issue(
            f"this process is bound to {cores.bound} of {cores.machine} cores",
            "if that is not intended, ask the scheduler (or taskset) for more",
            serious=False,
        )
    if len(gpus.usable) < gpus.installed:
        yield Issue(
            f"{gpus.variable} is {gpus.value!r}: {len(gpus.usable)} of {gpus.installed} GPUs can be used",
            f"unset {gpus.variable}",
            serious=False,
        )
    for name, value in machine.thread_variables.items():
        if value.isdigit() and int(value) > 1 and cores.usable > 1:
            yield Issue(
                f"{name} is {value}: in each worker, libraries use that many threads on its one core",
                f"unset {name}, and set threads_per_core where calls need more",
                serious=False,
            )
