"""Agents in a job of SLURM: one srun starts them on all hosts of the job.

The step of the agents shares cores, memory and devices with the other steps of the job (`--overlap`), so that MPI workers,
which are steps of their own, find what they need. pympipool counts what is used on each host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pympipool.backends.agent.launcher import Launcher, agent_command
from pympipool.backends.local.backend import start_method
from pympipool.backends.slurm.host_list import expand_hosts
from pympipool.backends.slurm.spawner import NamedSrunProcess
from pympipool.backends.slurm.srun import end_with_parent_command, step_environment

if TYPE_CHECKING:
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.slurm.job_watch import JobWatch
    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.resources import Resources

_OPTIONS = (
    "--quiet",
    "--overlap",
    "--ntasks-per-node=1",
    "--mem=0",  # all that the job has on the host
    "--cpu-bind=none",
    "--mpi=none",
    "--input=none",
    "--kill-on-bad-exit=0",  # the agents of other hosts go on
    "--wait=0",
    "--no-kill",  # the same if SLURM loses one of the hosts
)

_ONE_TASK = {
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
"""The variables of a step of one task, as srun would start a worker."""


_ASK_FOR_HOSTS = """
nodes=$(squeue --noheader --jobs="$1" --format=%D 2>&1) || { echo "srun: error: $nodes" >&2; exit 1; }
shift
exec srun --nodes="$nodes" "$@"
"""
"""A script of the shell that takes the id of the job, and options of srun."""


class SrunLauncher(Launcher):
    """Starts agents by srun, as one step on all hosts of the job that the script runs in.

    Args:
        relay: The agents connect to it.
        jobs: Asks SLURM's controller for the step.
    """

    cores_variable = "SLURM_CPUS_ON_NODE"
    name_variable = "SLURMD_NODENAME"

    def __init__(self, relay: Relay, jobs: JobWatch) -> None:
        self._relay = relay
        self._jobs = jobs
        count = os.environ.get("SLURM_JOB_NUM_NODES", "")
        self.host_count = int(count) if count.isdigit() else 0
        self.job_hosts = expand_hosts(os.environ.get("SLURM_JOB_NODELIST", ""))

    def start(
        self, request: LaunchRequest, environment: Mapping[str, str], hosts: Sequence[str] | None
    ) -> WorkerProcess:
        """Start srun for the agents.

        Raises:
            WorkerStartError: The system cannot start srun.
        """
        name = self._jobs.name(f"agents-{request.number}")
        place = [f"--nodes={len(hosts)}", f"--nodelist={','.join(hosts)}"] if hosts else []
        options = [*_OPTIONS, *place, f"--job-name={name}", *agent_command()]
        srun = ["srun"] if hosts else srun_on_all_hosts(os.environ)
        command = [*end_with_parent_command(), *srun, *options]
        return NamedSrunProcess(command, environment, request, self._relay, name, self._jobs)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of srun, without the options that it would take from there."""
        kept = step_environment(environment)
        for name in ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SRUN_CPUS_PER_TASK"):
            kept.pop(name, None)
        return kept

    def worker_variables(self, resources: Resources) -> dict[str, str]:
        """Return the variables of a step of one task."""
        return {**_ONE_TASK, "SLURM_CPUS_PER_TASK": str(resources.threads_per_core)}


def can_fork(resources: Resources, environ: Mapping[str, str]) -> bool:
    """Return True if agents can start workers with these resources; otherwise each worker needs an srun.

    Examples:
        >>> from pympipool.resources import Resources
        >>> job = {"SLURM_JOB_ID": "7", "PYMPIPOOL_START_METHOD": "fork"}
        >>> can_fork(Resources(gpus_per_core=1), job), can_fork(Resources(cores=2), job), can_fork(Resources(), {})
        (True, False, False)
    """
    needs_step = resources.cores > 1 or resources.needs_scheduler
    in_plain_job = "SLURM_JOB_ID" in environ and "SLURM_HET_SIZE" not in environ
    return in_plain_job and not needs_step and start_method(environ, resources.mp_context) == "fork"


def srun_on_all_hosts(environ: Mapping[str, str]) -> list[str]:
    """Return the beginning of the command of an srun on all hosts of the job.

    If the environment does not tell their number, as with only the job's id, the command asks SLURM's controller for it, which may
    take long. Its error messages become some of srun.

    Examples:
        >>> srun_on_all_hosts({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3"})
        ['srun', '--nodes=3']
        >>> srun_on_all_hosts({"SLURM_JOB_ID": "7"})[:2]
        ['sh', '-c']
    """
    if "SLURM_JOB_NUM_NODES" in environ:
        return ["srun", f"--nodes={environ['SLURM_JOB_NUM_NODES']}"]
    return ["sh", "-c", _ASK_FOR_HOSTS, "srun", environ["SLURM_JOB_ID"]]
