"""What is wrong here, and what to do: follows from the facts alone, so that each rule can be read and tested by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pympipool.diagnostics.environment.machine import Installation, Machine
from pympipool.diagnostics.environment.mpi import Mpi
from pympipool.diagnostics.environment.schedulers import Schedulers

FILES_PER_WORKER = 5
"""Descriptors that an executor holds for each worker; measured: 5 for one on a core, 6 for an MPI worker of two ranks."""

FILES_BESIDE = 64
"""Descriptors for everything else: an interpreter, an executor, and what scripts and libraries open."""

SHARED_MEMORY_LEAST = 16 << 20
"""Bytes that should be free in /dev/shm. MPICH 5 takes 1 MB of it for a job of two ranks, other MPI libraries more."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        what: What is wrong.
        remedy: What to do about it; empty where `what` says so.
        serious: Whether something does not work because of it; else it is only worth knowing.
    """

    what: str
    remedy: str = ""
    serious: bool = True


def find_problems(installation: Installation, machine: Machine, mpi: Mpi, schedulers: Schedulers) -> Iterator[Problem]:
    """What is wrong, the most serious first."""
    found = [
        *_of_installation(installation),
        *_of_limits(machine),
        *_of_mpi(mpi, machine),
        *_of_schedulers(schedulers),
        *_of_processors(machine),
    ]
    yield from sorted(found, key=lambda problem: not problem.serious)


def _of_installation(installation: Installation) -> Iterator[Problem]:
    if installation.compiled is not None:
        yield Problem(
            f"the compiled part of pympipool cannot be imported: {installation.compiled}",
            f"install it for this Python: {installation.executable} -m pip install --force-reinstall --no-deps pympipool"
            " (in a clone: make install)",
        )


def _of_limits(machine: Machine) -> Iterator[Problem]:
    limits, cores = machine.limits, machine.cores.usable
    needed = FILES_BESIDE + FILES_PER_WORKER * cores
    if limits.open_files is not None and limits.open_files < needed:
        can_raise = limits.open_files_most is None or limits.open_files_most >= needed
        yield Problem(
            f"this process may open {limits.open_files} files; with a worker on each of {cores} cores about {needed} are needed",
            f"ulimit -n {needed}"
            if can_raise
            else f"ask for a higher limit than {limits.open_files_most} (limits.conf)",
        )
    if limits.processes is not None and limits.processes < 2 * cores + 16:
        yield Problem(
            f"at most {limits.processes} processes and threads are allowed here (ulimit -u, or pids.max of the cgroup); a"
            " worker needs at least two",
            "use few workers (max_workers), or ask for a higher limit",
        )
    if machine.temporary is None:
        yield Problem(
            "there is no folder for temporary files that can be written", "export TMPDIR=FOLDER, one that you may write"
        )
    elif machine.temporary_wanted not in (None, machine.temporary):
        yield Problem(
            f"TMPDIR is {machine.temporary_wanted!r}, where nothing can be written: Python takes {machine.temporary}, but"
            " other programs (Open MPI's mpiexec, say) may fail",
            "export TMPDIR=FOLDER, one that you may write",
        )
    if not machine.anonymous_memory and machine.shared_memory is None:
        yield Problem(
            "memory cannot be shared here: there is neither memfd_create nor /dev/shm",
            "mount /dev/shm, or use a newer kernel than Linux 3.17",
        )


def _of_mpi(mpi: Mpi, machine: Machine) -> Iterator[Problem]:
    if mpi.problem is not None:
        yield Problem(mpi.problem, serious=mpi.installed)
        return
    if mpi.mpiexec_in_path not in (None, mpi.mpiexec):
        yield Problem(
            f"the mpiexec in PATH is {mpi.mpiexec_in_path}; pympipool uses {mpi.mpiexec}, which belongs to the library that"
            " mpi4py loads",
            serious=False,
        )
    folder = machine.shared_memory
    if folder is None or not folder.writable:
        yield Problem(
            "/dev/shm is missing" if folder is None else "/dev/shm cannot be written by this user",
            "most MPI libraries cannot start ranks without it: mount it, or chmod 1777 /dev/shm",
        )
    elif folder.free < SHARED_MEMORY_LEAST:
        yield Problem(
            f"/dev/shm has only {folder.free >> 20} MB free of {folder.size >> 20} MB: MPI ranks share memory there, and die of"
            " SIGBUS or hang where it is full",
            "remove what ended programs left there (ls -l /dev/shm), or make it larger (containers: --shm-size=1g)",
        )
    if machine.rank is not None:
        yield Problem(
            f"this process is itself a rank of an MPI job ({machine.rank} is set)",
            "start scripts with plain python, without mpiexec or srun: pympipool starts the ranks of its workers itself",
            serious=False,
        )


def _of_schedulers(schedulers: Schedulers) -> Iterator[Problem]:
    slurm, flux = schedulers.slurm, schedulers.flux
    if slurm.step is not None and "slurm" in schedulers.passed_over:
        yield Problem(
            f'this is step {slurm.step} of job {slurm.job} of SLURM; "auto" takes its cores, and asks for no further steps',
            "where workers are to be on all nodes of the job, start the script with plain python, without srun",
            serious=False,
        )
    elif slurm.job is not None and "slurm" in schedulers.passed_over:
        yield Problem(
            f"this is job {slurm.job} of SLURM, but {schedulers.passed_over['slurm']}",
            "see whether `squeue --me` and `srun true` work in this job; without SLURM only this node is used (backend 'mpi')",
        )
    if flux.uri is not None and "flux" in schedulers.passed_over:
        yield Problem(
            f"this runs in an instance of flux (FLUX_URI is set), but {schedulers.passed_over['flux']}",
            "see whether `flux resource list` works here; without flux only this node is used (backend 'mpi')",
        )
    if slurm.mpi_plugins is not None and slurm.mpi_plugin is not None and slurm.mpi_plugin not in slurm.mpi_plugins:
        yield Problem(
            f"srun has no --mpi={slurm.mpi_plugin}, by which the ranks of the MPI library that mpi4py loads find each other;"
            f" it has: {', '.join(slurm.mpi_plugins) or 'none'}",
            "load the cluster's own MPI and install mpi4py for it, or name another plugin: Executor(pmi_mode=NAME)",
        )
    if schedulers.chosen == "slurm" and slurm.job is None:
        yield Problem(
            "SLURM answers, but this is no job of it: each worker would be a job of its own, and wait in the queue",
            "run the script with sbatch or inside salloc; or use backend='mpi' for this machine alone",
            serious=False,
        )


def _of_processors(machine: Machine) -> Iterator[Problem]:
    cores, gpus = machine.cores, machine.gpus
    if cores.usable < cores.bound:
        yield Problem(
            f"the quota of this process's cgroup is {cores.usable} of {cores.bound} cores",
            "ask for more cores",
            serious=False,
        )
    elif cores.bound < cores.machine:
        yield Problem(
            f"this process is bound to {cores.bound} of {cores.machine} cores",
            "ask the scheduler (or taskset) for more, if that is not meant",
            serious=False,
        )
    if len(gpus.usable) < gpus.installed:
        yield Problem(
            f"{gpus.variable} is {gpus.value!r}: {len(gpus.usable)} of {gpus.installed} GPUs can be used",
            f"unset {gpus.variable}",
            serious=False,
        )
    for name, value in machine.thread_variables.items():
        if value.isdigit() and int(value) > 1 and cores.usable > 1:
            yield Problem(
                f"{name} is {value}: in each worker, libraries use as many threads on its one core",
                f"unset {name}, and say threads_per_core where calls need more",
                serious=False,
            )
