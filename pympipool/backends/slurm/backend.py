"""Backend "slurm": workers are steps of the job that the script runs in, or jobs of their own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pympipool.backends.base import PROBE_TIMEOUT_S, SchedulerBackend
from pympipool.backends.slurm import availability

if TYPE_CHECKING:
    from pympipool.backends.agent.launcher import Launcher
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Resources

FIRST_SPECIAL_STEP = 0xFFFFFFFA
"""The lowest step number of processes that run in a job outside of its numbered steps and take no cores from these,
such as the job's script and the shell of `salloc` (SLURM_INTERACTIVE_STEP in slurm.h)."""


class SlurmBackend(SchedulerBackend):
    """Workers that SLURM starts with srun: steps of the job that the script runs in, or jobs of their own.

    Raises:
        WorkerStartError: SLURM cannot be used here.
    """

    name = "slurm"

    def __init__(self) -> None:
        from pympipool.backends.slurm.duration import PartitionLimits  # only here, as other backends do not need it
        from pympipool.backends.slurm.job_watch import JobWatch

        availability.check_slurm()
        super().__init__()
        self._jobs = JobWatch(steps="SLURM_JOB_ID" in os.environ)
        self._limits = PartitionLimits()

    def available_cores(self) -> int:
        """Return the number of cores of the job.

        Raises:
            ValueError: The script does not run in a job.
        """
        cores = cores_of_job(os.environ)
        if cores is None:
            raise ValueError(
                "max_cores is not given, and this script runs in no job of SLURM whose cores could be taken: say how"
                " many cores to ask SLURM for, or run it with sbatch or inside salloc"
            )
        return cores

    def check(self, resources: Resources) -> None:
        """Raise ValueError for parameters that SLURM does not have, or that a step has from its job.

        Asks SLURM for the longest times of its partitions, if they matter.
        """
        from pympipool.backends.slurm.srun import PARAMETERS_OF_JOBS

        resources.check_backend(self.name)
        job = os.environ.get("SLURM_JOB_ID")
        for name in PARAMETERS_OF_JOBS if job is not None else ():
            if (value := getattr(resources, name)) is not None:
                raise ValueError(
                    f"{name} is {value!r}; this script runs in job {job} of SLURM, and its workers are steps of that job, which"
                    f" have the {name} of the job: give it to sbatch or salloc, or run the script outside of a job"
                )
        self._limits.learn(resources, os.environ)

    def uses_agents(self, resources: Resources) -> bool:
        """Return True in a job, for workers that need no step of their own."""
        from pympipool.backends.slurm.agents import can_fork

        return can_fork(resources, os.environ)

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.agent.spawner import AgentSpawner
        from pympipool.backends.slurm.spawner import SlurmSpawner

        spawner = SlurmSpawner(resources, self._relay_for(resources), self._jobs, self._limits)
        agents = self.agents_for(resources)
        return spawner if agents is None else AgentSpawner(resources, agents, spawner)

    def _make_launcher(self, relay: Relay) -> Launcher:
        from pympipool.backends.slurm.agents import SrunLauncher

        return SrunLauncher(relay, self._jobs)

    def close(self) -> None:
        """End the agents and the relay, and cancel what killed sruns have left."""
        super().close()
        self._jobs.close()

    def after_fork_in_child(self) -> None:
        """Release in a forked child what belongs to the parent."""
        super().after_fork_in_child()
        self._jobs.after_fork_in_child()


def cores_of_job(environ: Mapping[str, str]) -> int | None:
    """Return the number of cores of the SLURM job that has this environment; None outside of a job.

    Examples:
        >>> cores_of_job({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"})
        20
    """
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return sum(int(cores) * int(nodes or 1) for cores, nodes in groups) or None


def is_step(environ: Mapping[str, str]) -> bool:
    """Return True if this process is a step of SLURM with cores of its own: a worker, or a process that `srun` started.

    Examples:
        >>> is_step({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}), is_step({"SLURM_JOB_ID": "7"})
        (True, False)
    """
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < FIRST_SPECIAL_STEP


def unavailable_reason() -> str | None:
    """Return why "auto" cannot use SLURM here, or None if it can."""
    if is_step(os.environ):
        return (
            "this process is itself a step of SLURM's, started by srun or by an executor: it uses the cores that it has, while"
            " further steps might wait for them for ever; backend='slurm' asks for such steps"
        )
    timeout_s = availability.CONTROLLER_TIMEOUT_S if "SLURM_JOB_ID" in os.environ else PROBE_TIMEOUT_S
    return availability.recent_unavailable_reason(timeout_s)
