"""A scheduler that is made up, for detached calls: it runs nothing, and a test says what it answers."""

from __future__ import annotations

import pickle

from pympipool.detached.run import Job
from pympipool.detached.schedulers import State, TaskState
from pympipool.errors import WorkerStartError
from support.waiting import wait_until

WAITING = TaskState(State.WAITING)


class MadeUpScheduler:
    """Runs nothing: a test says what it answers, and ends calls itself.

    Attributes:
        requests: The submitted jobs, by their names "1", "2", ...
        answers: The states of tasks, by job and number; None: the task is not known any more. The others wait in the queue.
    """

    name = "slurm"
    settle_s = 0.0
    longest_pause_s = 0.05
    problem = ""

    def __init__(self):
        self.requests = {}
        self.answers = {}
        self.is_silent = False
        self.refusal = None
        self.cancelled = []
        self.questions = 0

    def most_tasks(self):
        return 3

    def task_id(self, job, task):
        return f"{job}_{task}"

    def submit(self, request, lock):
        if self.refusal is not None:
            raise WorkerStartError(self.refusal)
        self.requests[str(len(self.requests) + 1)] = request
        return str(len(self.requests))

    def find(self, submission):
        return None

    def states(self, jobs):
        self.questions += 1
        if self.is_silent:
            return None
        queued = {(job, task): WAITING for job in jobs for task in range(self.requests[job].tasks)}
        return {key: state for key, state in (queued | self.answers).items() if key[0] in jobs and state is not None}

    def cancel(self, job, tasks):
        self.cancelled.append((job, tasks))

    def end(self, job, number, value):
        """Let a job write a result."""
        Job.write_result(self._job(job), number, [value], 1)

    def _job(self, job):
        made = Job.__new__(Job)
        made.spool = self.requests[job].spool
        return made


def pickled(value):
    return pickle.dumps(value)


def submit(exe, scheduler, *args):
    before = len(scheduler.requests)
    call = exe.submit(*args)
    wait_until(lambda: len(scheduler.requests) == before + 1)
    return call
