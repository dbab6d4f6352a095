"""Jobs of SLURM: sbatch, squeue, scancel.

The name of a job has the id of its submission. So a job is found whose script was killed between `sbatch` and the note of the
number.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import replace

from pympipool._util.subprocesses import Popen, end, run
from pympipool.backends.slurm.availability import CONTROLLER_TIMEOUT_S, check_slurm
from pympipool.backends.slurm.duration import PartitionLimits
from pympipool.backends.slurm.srun import PARAMETERS_OF_JOBS, names_own_job, step_environment
from pympipool.detached.schedulers import JobRequest, State, TaskState
from pympipool.detached.templates import render, text_of
from pympipool.errors import WorkerStartError, describe_exit
from pympipool.resources import Resources

__all__ = ["SlurmScheduler"]

SUBMIT_TIMEOUT_S = 300.0
"""Seconds that sbatch may take: it tries again for minutes while the controller is busy."""

NAME = "pympipool-"
"""How the names of jobs begin; the id of the submission follows."""

_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING"}
_FAILED = {
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
}
"""States of a task that has ended and will not run again."""

_NEVER = re.compile("PartitionTimeLimit|MaxWall|DependencyNeverSatisfied")
"""Reasons for which a job waits for ever."""

_HAS_ENDED = re.compile("Invalid job id|already completing or completed", re.IGNORECASE)
"""What scancel says of jobs that have ended."""

FORMAT = "%F|%K|%T|%r|%j"
"""What squeue prints of a task: job, task, state, reason, name."""


class SlurmScheduler:
    """Submits jobs to SLURM.

    Raises:
        WorkerStartError: SLURM cannot be used here.
    """

    name = "slurm"
    settle_s = 5.0
    longest_pause_s = 15.0
    problem = ""

    def __init__(self) -> None:
        check_slurm()
        self._limits = PartitionLimits()

    @functools.cached_property
    def _most_tasks(self) -> int:
        answer = run(["scontrol", "show", "config"], timeout=CONTROLLER_TIMEOUT_S).stdout
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer)
        return max(int(found[1]), 1) if found else 1001

    def most_tasks(self) -> int:
        """Return the largest size of an array, which SLURM's administrator sets."""
        return self._most_tasks

    def task_id(self, job: str, task: int) -> str:
        """Return what SLURM calls a task of an array."""
        return f"{job}_{task}"

    def submit(self, request: JobRequest, lock: int) -> str:
        """Submit a job by sbatch.

        Raises:
            WorkerStartError: SLURM refuses it, or does not answer.
        """
        self._limits.learn(request.resources, os.environ)
        script = os.path.join(request.spool.path, "job.sh")
        with open(os.open(script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(batch_script(request))
        limit = self._limits.option(request.resources, os.environ)
        environment = {name: value for name, value in step_environment(os.environ).items() if not _is_option(name)}
        process = Popen(
            ["sbatch", *sbatch_options(request), *limit, *request.resources.command_line_argument_lst, script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**environment, **request.resources.threads_environment()},
            pass_fds=[lock],
        )
        try:
            stdout, stderr = process.communicate(timeout=SUBMIT_TIMEOUT_S)
        except BaseException:
            end(process)
            raise
        if process.returncode != 0:
            raise WorkerStartError(f"SLURM refuses a detached job: {' '.join(stderr.split()) or process.returncode}")
        return str(stdout).strip().splitlines()[-1].split(";")[0]

    def find(self, submission: str) -> str | None:
        """Return the number of the job of a submission."""
        answer = self._squeue(f"--name={NAME}{submission}")
        if answer is None:
            raise WorkerStartError("SLURM's controller does not answer")
        return answer[0][0] if answer else None

    def _squeue(self, *options: str) -> list[list[str]] | None:
        """Return the fields of each task; None if the controller does not answer."""
        command = ["squeue", "--me", "--all", "--noheader", "--array", "--states=all", f"--format={FORMAT}", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
        try:
            answer = run(command, timeout=CONTROLLER_TIMEOUT_S, env=environment)
        except (OSError, subprocess.SubprocessError):
            return None
        if answer.returncode != 0:
            return None
        return [line.split("|", 4) for line in answer.stdout.splitlines() if line.count("|") >= 4]

    def states(self, jobs: Collection[str]) -> dict[tuple[str, int], TaskState] | None:
        """Ask for all jobs of the user at once."""
        answer = self._squeue()
        if answer is None:
            return None
        wanted = set(jobs)
        return {
            (job, int(task) if task.isdigit() else 0): _as_state(state, reason)
            for job, task, state, reason, _ in answer
            if job in wanted
        }

    def cancel(self, job: str, tasks: Collection[int] | None) -> None:
        """Cancel some tasks of a job, or all of it.

        Raises:
            WorkerStartError: The controller does not answer, or refuses.
        """
        ids = [job] if tasks is None else [f"{job}_{task}" for task in tasks]
        for begin in range(0, len(ids), 500):
            try:
                answer = run(["scancel", "--quiet", *ids[begin : begin + 500]], timeout=CONTROLLER_TIMEOUT_S)
            except (OSError, subprocess.SubprocessError) as error:
                raise WorkerStartError(f"job {job} is not cancelled: {error}") from error
            problems = [line for line in answer.stderr.splitlines() if line.strip() and not _HAS_ENDED.search(line)]
            if answer.returncode < 0:
                problems.append(f"scancel {describe_exit(answer.returncode)}")
            if answer.returncode != 0 and problems:
                raise WorkerStartError(f"job {job} is not cancelled: {' '.join(problems[-1].split())}")


def check(resources: Resources) -> None:
    """Raise ValueError for resources that jobs of SLURM do not have."""
    replace(resources, submission_template=None).check_backend("slurm")
    if resources.submission_template is not None:
        text_of(resources.submission_template)
    if names_own_job(resources):
        raise ValueError(
            f"command_line_argument_lst is {list(resources.command_line_argument_lst)!r}; detached jobs are found by the names"
            " that pympipool gives them: leave the options for the name, the cluster and the id"
        )


def _is_option(name: str) -> bool:
    """Return True for variables that sbatch would take as options, or that name the job in which the script runs."""
    return name.startswith(("SBATCH_", "SLURM_ARRAY_")) or name in {"SLURM_JOB_ID", "SLURM_JOBID"}


def _as_state(state: str, reason: str) -> TaskState:
    """Return the state of a task.

    Examples:
        >>> _as_state("CANCELLED", "None"), _as_state("PENDING", "DependencyNeverSatisfied").state.name
        (TaskState(state=<State.FAILED: 'failed'>, words='CANCELLED'), 'NEVER')
    """
    words = state if reason in ("", "None") else f"{state} ({reason})"
    if state in _RUNNING:
        return TaskState(State.RUNNING, words)
    if state == "COMPLETED":
        return TaskState(State.ENDED, words)
    if state in _FAILED:
        return TaskState(State.FAILED, words)
    return TaskState(State.NEVER if _NEVER.search(reason) else State.WAITING, words)


def sbatch_options(request: JobRequest) -> list[str]:
    """Return the options of sbatch for a job."""
    resources = request.resources
    options = ["--parsable", f"--job-name={NAME}{request.spool.submission}", "--open-mode=append", "--export=ALL"]
    options.append(
        f"--output={request.spool.log_path(0).removesuffix('0.log')}{'%a' if request.tasks > 1 else '0'}.log"
    )
    options += [f"--chdir={request.cwd}", f"--ntasks={resources.cores}"]
    if not (resources.exclusive and resources.threads_per_core == 1):
        options.append(f"--cpus-per-task={resources.threads_per_core}")
    if request.tasks > 1:
        limit = "" if request.at_once is None else f"%{request.at_once}"
        options.append(f"--array=0-{request.tasks - 1}{limit}")
    if request.after:
        ids = sorted(f"{job}" if task is None else f"{job}_{task}" for job, task in request.after)
        options += [f"--dependency=afterok:{':'.join(ids)}", "--kill-on-invalid-dep=yes"]
    if resources.num_nodes is not None or resources.cores == 1:
        options.append(f"--nodes={resources.num_nodes or 1}")
    if resources.exclusive:
        options.append("--exclusive")
    if resources.oversubscribe:
        options.append("--overcommit")
    if resources.gpus_per_core:
        options.append(f"--gpus-per-task={resources.gpus_per_core}")
    options += [f"--{name}={value}" for name in PARAMETERS_OF_JOBS if (value := getattr(resources, name)) is not None]
    return options


def batch_script(request: JobRequest) -> str:
    """Return the script of a job: that of the user, if there is one, with the command in it."""
    variables = [f"export {name}={shlex.quote(value)}" for name, value in request.environment.items()]
    command = [*_launcher(request.resources), *request.command]
    line = " ".join([*map(shlex.quote, command), '"${SLURM_ARRAY_TASK_ID:-0}"'])
    return render(request.resources, f"{'; '.join(variables)}\n{line}", request)


def _launcher(resources: Resources) -> Sequence[str]:
    """Return what starts the ranks of a call."""
    if resources.cores == 1:
        return ()
    from pympipool.backends.slurm.srun import _mpi_plugin

    return ("srun", "--kill-on-bad-exit=1", "--input=none", f"--mpi={_mpi_plugin(resources)}")
