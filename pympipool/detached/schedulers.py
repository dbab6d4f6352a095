"""What detached calls ask of a scheduler, and the schedulers by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pympipool.detached.records import Records
    from pympipool.detached.spool import Spool
    from pympipool.resources import Resources

__all__ = [
    "LIFELINE",
    "SCHEDULERS",
    "JobRequest",
    "Scheduler",
    "State",
    "TaskState",
    "check_resources",
    "make_scheduler",
]


class State(Enum):
    """The state of a task.

    One that is lost was never submitted, or its scheduler has ended: it is submitted again. An unknown one fails after a while.
    """

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"
    NEVER = "will never start"
    LOST = "was lost"
    UNKNOWN = "unknown"


class TaskState(NamedTuple):
    """What a scheduler says of a task.

    Attributes:
        state: Its state.
        words: The words of the scheduler, such as "CANCELLED by 1000".
    """

    state: State
    words: str = ""


@dataclass(frozen=True)
class JobRequest:
    """A job to submit.

    Attributes:
        spool: The folder of the submission.
        tasks: The number of tasks: of an array, if there are several.
        resources: What each task needs.
        command: The program of a task, which gets the number of the task as a last argument.
        environment: Variables that the program needs, besides those of the script.
        cwd: Its working directory.
        after: What must have ended without a failure before: jobs, and the number of a task in each; None: all tasks.
        at_once: How many tasks run at a time; None: as many as the scheduler likes.
        cores_at_once: How many cores all jobs together may use here, for "local".
    """

    spool: Spool
    tasks: int
    resources: Resources
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: str
    after: Sequence[tuple[str, int | None]]
    at_once: int | None
    cores_at_once: int


class Scheduler(Protocol):
    """The interface between the calls and what runs their jobs.

    Attributes:
        name: The name of the backend.
        settle_s: How long (s) a job may be on its way after its script was killed while it was submitted.
        longest_pause_s: The longest pause (s) between two questions about the states of the jobs.
    """

    name: str
    settle_s: float
    longest_pause_s: float

    @property
    def problem(self) -> str:
        """Why jobs may not go on, for the user; "" as long as all is well."""

    def most_tasks(self) -> int:
        """Return the largest number of tasks of an array."""

    def task_id(self, job: str, task: int) -> str:
        """Return what users call a task of a job."""

    def submit(self, request: JobRequest, lock: int) -> str:
        """Submit a job, or an array of jobs; return its number.

        Args:
            request: The job.
            lock: A descriptor that the submitting program has to inherit.

        Raises:
            WorkerStartError: The scheduler refuses it. The message has its words.
        """

    def find(self, submission: str) -> str | None:
        """Return the number of the job of a submission whose script was killed; None if there is none."""

    def states(self, jobs: Collection[str]) -> dict[tuple[str, int], TaskState] | None:
        """Return the states of the tasks of jobs, as far as they are known; None if the scheduler does not answer."""

    def cancel(self, job: str, tasks: Collection[int] | None) -> None:
        """Cancel some tasks of a job, or all of it (None). What has ended already is left alone."""


LIFELINE = "PYMPIPOOL_LIFELINE"
"""The variable that has the descriptor of the socket whose end tells a task that the supervisor was killed."""

SCHEDULERS = ("slurm", "flux", "local")


def check_resources(name: str, resources: Resources) -> None:
    """Raise ValueError for resources that jobs of a scheduler cannot have."""
    if name == "slurm":
        from pympipool.detached.slurm import check
    elif name == "flux":
        from pympipool.detached.flux import check
    else:
        from pympipool.detached.local import check
    check(resources)


def make_scheduler(name: str, records: Records, directory: str) -> Scheduler:
    """Return the scheduler of a name.

    Args:
        records: The records of the jobs.
        directory: The cache directory.

    Raises:
        WorkerStartError: It cannot be used here.
    """
    if name == "slurm":
        from pympipool.detached.slurm import SlurmScheduler

        return SlurmScheduler()
    if name == "flux":
        from pympipool.detached.flux import FluxScheduler

        return FluxScheduler(records, directory)
    from pympipool.detached.local import LocalScheduler

    return LocalScheduler(records, directory)
