"""The command line and the environment of an `srun` that starts one worker."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pympipool._util.subprocesses import run
from pympipool.backends.mpi_library import Kind, loaded_library
from pympipool.resources import Resources

_MPI_PLUGINS = {Kind.HYDRA: "pmi2", Kind.OPEN_MPI: "pmix"}
"""The value of `srun --mpi=` with which the ranks of a library find each other. With a wrong one each rank comes up in
a world of size 1."""

_JOB_OPTION_PREFIXES = (
    "SLURM_GPU",
    "SLURM_NTASKS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_TRES_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_CPUS_PER_GPU",
    "SLURM_MEM_PER_GPU",
    "SLURM_STEP_",
)
"""Prefixes of variables that SLURM sets for a whole job, and that srun would take as options of the step."""

_JOB_OPTIONS = (
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NPROCS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_HINT",
    "SLURM_MPI_TYPE",
    "SLURM_EXPORT_ENV",
    "SLURM_WORKING_DIR",
    "SLURM_EXCLUSIVE",
    "SLURM_WAIT",
    "SLURM_LABELIO",
)
"""Full names of variables that SLURM sets for a whole job, and that srun would take as options of the step."""


PARAMETERS_OF_JOBS = ("partition", "account", "priority")
"""Parameters that a job of SLURM can have, and a step cannot."""

SETPRIV_TIMEOUT_S = 5.0
"""Seconds that a trial of setpriv may take."""

TASK_EPILOG = Path(__file__).with_name("task_epilog")
"""Program that SLURM runs after the end of each rank of several."""


def srun_command(resources: Resources, environ: Mapping[str, str]) -> list[str]:
    """Return srun and its options for workers that need these resources.

    Args:
        resources: What each worker needs.
        environ: The environment of the script, which tells if the script runs inside a job.

    Examples:
        >>> srun_command(Resources(threads_per_core=2), {})[:4]
        ['srun', '--quiet', '--ntasks=1', '--cpus-per-task=2']
    """
    ranks = resources.cores
    in_job = "SLURM_JOB_ID" in environ
    takes_whole_nodes = in_job and resources.exclusive  # a step does without --exact, which --cpus-per-task implies
    command = ["srun", "--quiet", f"--ntasks={ranks}"]
    if not takes_whole_nodes:
        command.append(f"--cpus-per-task={resources.threads_per_core}")
    elif resources.threads_per_core > 1:
        command.append("--cpu-bind=none")  # otherwise a rank may be bound to one core
    command += ["--kill-on-bad-exit=1", "--input=none", f"--mpi={_mpi_plugin(resources)}"]
    if resources.num_nodes is not None or ranks == 1 or takes_whole_nodes:
        command.append(f"--nodes={resources.num_nodes or 1}")
    if ranks > 1 and os.access(TASK_EPILOG, os.X_OK):
        command.append(f"--task-epilog={TASK_EPILOG}")
    if in_job and not takes_whole_nodes:
        command.append("--exact")
    elif not in_job and resources.exclusive:
        command.append("--exclusive")
    for name in PARAMETERS_OF_JOBS:
        if (value := getattr(resources, name)) is not None:
            command.append(f"--{name}={value}")
    if resources.gpus_per_core:
        command.append(f"--gpus-per-task={resources.gpus_per_core}")
    elif in_job:
        command.append("--gres=none")  # otherwise the step would take all devices of the job
    if resources.oversubscribe:
        command.append("--overcommit")
    if resources.cwd is not None:
        command.append(f"--chdir={resources.cwd}")
    return [*command, *resources.command_line_argument_lst]


_UNSEEN_OPTIONS = ("-J", "--job-name", "-M", "--cluster", "--jobid")
"""Options of the user with which `squeue` does not find a job by the name that pympipool gives it."""


def names_own_job(resources: Resources) -> bool:
    """Return True if the user's options keep pympipool from asking for a worker's job by its name.

    Examples:
        >>> names_own_job(Resources(command_line_argument_lst=["--job-name=mine"])), names_own_job(Resources())
        (True, False)
    """
    return any(option.startswith(_UNSEEN_OPTIONS) for option in resources.command_line_argument_lst)


def _mpi_plugin(resources: Resources) -> str:
    if resources.pmi_mode is not None:
        return resources.pmi_mode
    return "none" if resources.cores == 1 else _MPI_PLUGINS[loaded_library().kind]


def step_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an srun, without the variables with which a worker would be treated like the whole job.

    srun passes its own environment on to the step, unless the job was submitted with --export=NONE. That option
    (SLURM_EXPORT_ENV) is left out too, as the worker needs its configuration from the environment.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_JOB_OPTION_PREFIXES) and name not in _JOB_OPTIONS
    }
    per_node = environment.get("SLURM_MEM_PER_NODE", "")
    cores = environment.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit() and cores.isdigit() and int(per_node) > 0 < int(cores):
        # Otherwise each step would take all of the job's memory on a node, and the next step would have to wait for it.
        del kept["SLURM_MEM_PER_NODE"]
        kept["SLURM_MEM_PER_CPU"] = str(int(per_node) // int(cores) or 1)
    return kept


@functools.cache
def end_with_parent_command() -> Sequence[str]:
    """Return the command prefix that ends an srun waiting in the queue when the master is killed.

    Empty where util-linux is too old.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    command = (setpriv, "--pdeathsig", "TERM")
    try:
        tried = run([*command, "true"], timeout=SETPRIV_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return ()
    return command if tried.returncode == 0 else ()
