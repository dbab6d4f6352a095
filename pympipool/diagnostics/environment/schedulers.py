"""Probe SLURM and flux, and the backend that "auto" takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass

from pympipool._util.subprocesses import run
from pympipool.backends.flux.availability import size_of_instance
from pympipool.backends.registry import unavailable_reasons
from pympipool.backends.slurm.backend import cores_of_job, is_step
from pympipool.backends.slurm.srun import srun_command
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources

PROGRAM_TIMEOUT_S = 10.0
"""Timeout of a scheduler's program that prints its version."""


@dataclass(frozen=True)
class Slurm:
    """SLURM, as found from here.

    Attributes:
        version: Version that srun prints; None if there is no srun, or it does not answer.
        job: Job that this process runs in; None outside of a job.
        step: Step of the job that this process belongs to; None outside of a step, as in a batch script.
        nodes: Nodes of the job, in SLURM's notation; None outside of a job.
        cores: Number of cores of the job; None outside of a job.
        mpi_plugin: Value of `srun --mpi=` for the MPI library that mpi4py loads; None if it loads none.
        mpi_plugins: All values of `srun --mpi=`; None if srun was not asked because SLURM cannot be used.
    """

    version: str | None
    job: str | None
    step: str | None
    nodes: str | None
    cores: int | None
    mpi_plugin: str | None
    mpi_plugins: tuple[str, ...] | None


@dataclass(frozen=True)
class Flux:
    """Flux, as found from here.

    Attributes:
        version: Version of the program `flux`; None if there is no such program, or it does not answer.
        uri: URI of the instance that this process runs in (FLUX_URI); None if it runs in none.
        hosts: Hosts of the reachable instance, in flux's notation; None if no instance can be reached.
        cores: Number of cores of that instance; None if no instance can be reached.
        gpus: Number of GPUs of that instance; None if no instance can be reached.
    """

    version: str | None
    uri: str | None
    hosts: str | None
    cores: int | None
    gpus: int | None


@dataclass(frozen=True)
class Schedulers:
    """The schedulers that could start workers.

    Attributes:
        chosen: Backend that "auto" takes.
        skipped_backends: By name, the reasons why "auto" does not take the other backends that it prefers.
    """

    slurm: Slurm
    flux: Flux
    chosen: str
    skipped_backends: dict[str, str]


def probe_schedulers() -> Schedulers:
    """Probe SLURM and flux, and which backend "auto" takes."""
    reasons = unavailable_reasons()
    chosen = next(name for name, reason in reasons.items() if reason is None)
    return Schedulers(
        slurm=_slurm(usable=reasons["slurm"] is None),
        flux=_flux(usable=reasons["flux"] is None),
        chosen=chosen,
        skipped_backends={name: reason for name, reason in reasons.items() if reason is not None},
    )


def _slurm(*, usable: bool) -> Slurm:
    environ = os.environ
    return Slurm(
        version=_first_line("srun", "--version"),
        job=environ.get("SLURM_JOB_ID"),
        step=environ["SLURM_STEP_ID"] if is_step(environ) else None,
        nodes=environ.get("SLURM_JOB_NODELIST"),
        cores=cores_of_job(environ),
        mpi_plugin=_mpi_plugin(),
        mpi_plugins=_mpi_plugins() if usable else None,
    )


def _flux(*, usable: bool) -> Flux:
    size = None
    if usable:
        with contextlib.suppress(WorkerStartError):  # the instance has ended meanwhile
            size = size_of_instance()
    first_line = _first_line("flux", "version")  # "commands:  0.88.0"
    return Flux(
        version=first_line and first_line.split()[-1],
        uri=os.environ.get("FLUX_URI"),
        hosts=size and size.hosts,
        cores=size and size.cores,
        gpus=size and size.gpus,
    )


def _mpi_plugin() -> str | None:
    try:
        command = srun_command(Resources(cores=2), os.environ)
    except WorkerStartError:
        return None
    return next(option.removeprefix("--mpi=") for option in command if option.startswith("--mpi="))


def _mpi_plugins() -> tuple[str, ...]:
    """Return the names that `srun --mpi=list` prints to stderr, one in each line after a heading."""
    return tuple(line.strip() for line in _output_of("srun", "--mpi=list").splitlines() if line.startswith(("\t", " ")))


def _first_line(*command: str) -> str | None:
    return next(iter(_output_of(*command).splitlines()), None)


def _output_of(*command: str) -> str:
    """Return the output of a program; "" if the program is missing, fails, or does not answer in time."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = run(command, timeout=PROGRAM_TIMEOUT_S, stderr=subprocess.STDOUT)
        return "" if done.returncode else done.stdout
    except (OSError, subprocess.SubprocessError):
        return ""
