"""Jobs on this machine, under a supervisor that outlives the script.

    script ── tasks in jobs.sqlite ──► supervisor (one for each cache directory and host) ──► a process for each task

The script starts the supervisor if none runs. It holds a lock as long as it lives, so the next script finds out if it was killed.
Its tasks end with it, and another supervisor goes on with those that have not begun.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from pympipool._util.import_path import package_folder
from pympipool._util.subprocesses import Popen
from pympipool.backends.program import program_command
from pympipool.detached.schedulers import JobRequest, State, TaskState
from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from pympipool.detached.records import Records
    from pympipool.resources import Resources

__all__ = ["LocalScheduler", "lock_path", "try_lock"]

START_TIMEOUT_S = 60.0
"""Seconds that a supervisor may take to start."""

TASKS_MAX = 1_000_000

_STATES = {"WAITING": State.WAITING, "RUNNING": State.RUNNING, "CANCEL": State.RUNNING, "ENDED": State.ENDED}


class LocalScheduler:
    """Has a supervisor run jobs on this machine.

    Args:
        records: The records of the jobs.
        directory: The cache directory.
    """

    name = "local"
    settle_s = 0.0
    longest_pause_s = 1.0
    problem = ""

    def __init__(self, records: Records, directory: str) -> None:
        self._records = records
        self._directory = directory
        self._host = socket.gethostname()

    def most_tasks(self) -> int:
        """Return the largest number of tasks of a submission."""
        return TASKS_MAX

    def task_id(self, job: str, task: int) -> str:
        """Return a name of a task."""
        return f"{job}_{task}"

    def submit(self, request: JobRequest, lock: int) -> str:
        """Queue the tasks, and start a supervisor if none runs."""
        submission = request.spool.submission
        environment = {**os.environ, **request.resources.threads_environment(), **request.environment}
        path = os.path.join(request.spool.path, "environment.json")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(environment, file)
        spec = {
            "command": list(request.command),
            "cores": min(request.resources.total_cores, request.cores_at_once),
            "cores_at_once": request.cores_at_once,
            "limit_s": request.resources.time_limit,
            "after": list(request.after),
        }
        self._records.queue_tasks(submission, request.tasks, spec)
        self._ensure_supervisor()
        return submission

    def find(self, submission: str) -> str | None:
        """Return the job of a submission. The tasks and their number were noted in one step."""
        found = self._records.submission(submission)
        return None if found is None else found.job

    def states(self, jobs: Collection[str]) -> dict[tuple[str, int], TaskState] | None:
        """Return the states of tasks. If their supervisor was killed, start another one."""
        wanted = set(jobs)
        states: dict[tuple[str, int], TaskState] = {}
        open_jobs = set()
        for job, task, state, words, _ in self._records.tasks():
            if job in wanted:
                states[job, task] = TaskState(_STATES.get(state, State.FAILED), words or state)
                if state in ("WAITING", "RUNNING", "CANCEL"):
                    open_jobs.add(job)
        hosts = {one.host for one in self._records.submissions() if one.id in open_jobs}
        if self._host in hosts:
            self._ensure_supervisor()
        for host in hosts - {self._host}:
            self._add_lost(states, host)
        return states

    def _add_lost(self, states: dict[tuple[str, int], TaskState], host: str) -> None:
        """Note that the tasks of another host have failed, if their supervisor was killed."""
        lock = try_lock(self._directory, host)
        if lock is None:
            return
        os.close(lock)
        of_host = {one.id for one in self._records.submissions() if one.host == host}
        for (job, task), state in list(states.items()):
            if job in of_host and state.state in (State.WAITING, State.RUNNING):
                states[job, task] = TaskState(State.FAILED, f"the supervisor of its tasks on {host} has ended")

    def cancel(self, job: str, tasks: Collection[int] | None) -> None:
        """Cancel tasks: those that wait at once, the others by the supervisor."""
        for submission, task, *_ in self._records.tasks("WAITING", "RUNNING"):
            if submission == job and (tasks is None or task in tasks):
                if not self._records.change_task(job, task, "CANCELLED", "CANCELLED", before="WAITING"):
                    self._records.change_task(job, task, "CANCEL", "CANCELLED", before="RUNNING")

    def _ensure_supervisor(self) -> None:
        """Start a supervisor, unless one runs. It goes into the background when it has the lock.

        Raises:
            WorkerStartError: It cannot be started.
        """
        lock = try_lock(self._directory, self._host)
        if lock is None:
            return
        os.close(lock)
        log = os.path.join(self._directory, "detached", "supervisor.log")
        environment = {**os.environ, "PYMPIPOOL_PATH": package_folder()}
        environment.pop("PYMPIPOOL_KEY", None)
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as file:
            process = Popen(
                [*program_command("pympipool.detached.supervisor"), self._directory],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        try:
            code = process.wait(START_TIMEOUT_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            with open(log, encoding="utf-8", errors="replace") as lines:
                last = lines.read().splitlines()[-10:]
            raise WorkerStartError("the supervisor of detached jobs cannot start", exit_code=code, last_stderr=last)


def check(resources: Resources) -> None:
    """Raise ValueError for resources that processes of this machine do not have."""
    if resources.submission_template is not None:
        raise ValueError("submission_template is given, and backend 'local' submits no scripts: leave it out")
    resources.check_backend("local")
    if resources.gpus_per_core:
        raise ValueError(
            f"gpus_per_core is {resources.gpus_per_core}; detached jobs of backend 'local' share the GPUs of this machine"
            " themselves: leave it out, and limit their number by max_workers"
        )


def lock_path(directory: str, host: str) -> str:
    """Return the file that the supervisor of a host locks."""
    return os.path.join(directory, "detached", f"supervisor-{host}.lock")


def try_lock(directory: str, host: str) -> int | None:
    """Return the descriptor of the lock of the supervisor; None if one runs."""
    descriptor = os.open(lock_path(directory, host), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with suppress(OSError):
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
