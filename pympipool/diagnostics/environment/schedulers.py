"""SLURM and flux, and the backend that "auto" takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass

from pympipool.backends.flux.availability import size_of_instance
from pympipool.backends.registry import unavailable_reasons
from pympipool.backends.slurm.backend import cores_of_job, is_step
from pympipool.backends.slurm.srun import srun_command
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources

ANSWER_S = 10.0
"""How long a scheduler's program may take to tell its version."""


@dataclass(frozen=True)
class Slurm:
    """SLURM, as found from here.

    Attributes:
        version: What srun says; None where there is no srun, or it does not answer.
        job: The job that this process runs in; None when it runs in none.
        step: The step of it that this process is, or is in; None when it is in none, as a batch script.
        nodes: Its nodes, in SLURM's notation; None outside of a job.
        cores: Its cores; None outside of a job.
        mpi_plugin: What `srun --mpi=` needs for the MPI library that mpi4py loads; None when it loads none.
        mpi_plugins: What `srun --mpi=` can be; None when it was not asked, as SLURM cannot be used.
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
        version: Of the program `flux`; None where there is none, or it does not answer.
        uri: The instance that this process runs in (FLUX_URI); None when it runs in none.
        hosts: Those of the instance that can be reached, in flux's notation; None when none can be.
        cores: Its cores; None likewise.
        gpus: Its GPUs; None likewise.
    """

    version: str | None
    uri: str | None
    hosts: str | None
    cores: int | None
    gpus: int | None


@dataclass(frozen=True)
class Schedulers:
    """What could start workers.

    Attributes:
        chosen: The backend that "auto" takes.
        passed_over: Why it does not take the others that it looks for, by name.
    """

    slurm: Slurm
    flux: Flux
    chosen: str
    passed_over: dict[str, str]


def probe_schedulers() -> Schedulers:
    """Looks at SLURM and flux, and at what "auto" makes of them."""
    reasons = unavailable_reasons()
    chosen = next(name for name, reason in reasons.items() if reason is None)
    return Schedulers(
        slurm=_slurm(usable=reasons["slurm"] is None),
        flux=_flux(usable=reasons["flux"] is None),
        chosen=chosen,
        passed_over={name: reason for name, reason in reasons.items() if reason is not None},
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
        with contextlib.suppress(WorkerStartError):  # it has gone meanwhile
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
    """The names that `srun --mpi=list` prints, on stderr, one in a line after a heading."""
    return tuple(line.strip() for line in _ask("srun", "--mpi=list").splitlines() if line.startswith(("\t", " ")))


def _first_line(*command: str) -> str | None:
    return next(iter(_ask(*command).splitlines()), None)


def _ask(*command: str) -> str:
    """What a program prints; nothing where it is missing, fails, or does not answer in time."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
