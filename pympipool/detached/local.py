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

from pympipool._util.clocks import RunningClock
from pympipool._util.exit_codes import process_state
from pympipool._util.import_path import package_folder
from pympipool._util.subprocesses import Popen, end
from pympipool.backends.local.job_processes import processes_with
from pympipool.backends.program import program_command
from pympipool.caching.file_waits import FileLockedError
from pympipool.detached import records_file
from pympipool.detached.schedulers import JobRequest, State, TaskState
from pympipool.errors import WorkerStartError
from pympipool.resources.discovery import Devices, available_devices

if TYPE_CHECKING:
    from pympipool.detached.records import Records
    from pympipool.resources import Resources

__all__ = ["LocalScheduler", "lock_path", "task_mark", "try_lock"]

START_TIMEOUT_S = 60.0
"""Seconds that a supervisor may take to start."""

TASKS_MAX = 1_000_000

HUNG_S = 30.0
"""For how long the supervisor of this host may do nothing, or the records may be locked, until the user is warned."""

HUNG_ELSEWHERE_S = 180.0
"""The same for the supervisor of another host, as network file systems show changes late."""

STATE_BYTES = 300
"""Bytes of the state of a supervisor in its lock."""

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

    def __init__(self, records: Records, directory: str) -> None:
        self._records = records
        self._directory = directory
        self._host = socket.gethostname()
        self.problem = ""
        self._beats: dict[str, tuple[int, RunningClock]] = {}  # the last heartbeat of a host's supervisor, and its age

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
        devices = available_devices() if request.resources.gpus else Devices()
        spec = {
            "command": list(request.command),
            "gpus": request.resources.gpus,
            "devices": [devices.variable, list(devices.names)],
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
        pids: dict[str, dict[int, int | None]] = {}  # of the tasks that have not ended, by job
        for job, task, state, words, pid in self._records.tasks():
            if job in wanted:
                states[job, task] = TaskState(_STATES.get(state, State.FAILED), words or state)
                if state in ("WAITING", "RUNNING", "CANCEL"):
                    pids.setdefault(job, {})[task] = pid
        hosts = {one.host for one in self._records.submissions() if one.id in pids}
        if self._host in hosts:
            self._ensure_supervisor()
        for host in hosts - {self._host}:
            self._add_lost(states, host)
        problems = [problem for host in hosts if (problem := self._problem_of(host))]
        locked = self._lock_problem() if hosts else ""
        self.problem = locked or (problems[0] if problems else "")
        hung_s = max(self._silence_s(self._host) if self._host in hosts else 0.0, self._records.locked_s())
        if self.problem and hung_s > records_file.HUNG_LIMIT_S:
            own = {one.id for one in self._records.submissions() if one.host == self._host}
            self._fail_hung(states, {job: tasks for job, tasks in pids.items() if job in own})
        return states

    def _lock_problem(self) -> str:
        """Return which process keeps supervisors from noting what they do; "" if none does."""
        try:
            self._records.check_writable()
        except FileLockedError as locked:
            return f"{locked}. Until then no detached job starts" if self._records.locked_s() > HUNG_S else ""
        return ""

    def _silence_s(self, host: str) -> float:
        """Return for how long (s) the supervisor of a host has not touched its lock, while this process ran."""
        try:
            beat = os.stat(lock_path(self._directory, host)).st_mtime_ns
        except FileNotFoundError:
            return 0.0
        if host not in self._beats or self._beats[host][0] != beat:
            self._beats[host] = beat, RunningClock()
        return self._beats[host][1].elapsed()

    def _problem_of(self, host: str) -> str:
        """Return why the supervisor of a host does not go on; "" if it does."""
        pid, problem = self._read_state(host)
        if self._silence_s(host) <= (HUNG_S if host == self._host else HUNG_ELSEWHERE_S):
            if not problem:
                return ""
            return f"the supervisor of detached jobs (process {pid} on {host}) cannot go on: {problem}; it tries again"
        if pid is None:
            return (
                f"the supervisor of detached jobs on {host} hangs, so none of them starts, and {lock_path(self._directory, host)}"
                " does not say which process it is: look for the one with pympipool.detached.supervisor in its command line, and"
                " what it waits for"
            )
        if host == self._host and process_state(pid) in ("T", "t"):
            return (
                f"the supervisor of detached jobs (process {pid}) was stopped, so none of them starts: kill -CONT {pid}"
            )
        return (
            f"the supervisor of detached jobs (process {pid} on {host}) hangs, so none of them starts: look what it waits for, or"
            f" end it by kill -9 {pid}, and its tasks with it; then the next script starts another one"
        )

    def _read_state(self, host: str) -> tuple[int | None, str]:
        """Return the id of a supervisor, and its problem.

        The id is None if it cannot be read: to `kill`, 0 and less are whole groups of processes.
        """
        with (
            suppress(OSError, ValueError),
            open(lock_path(self._directory, host), encoding="utf-8", errors="replace") as file,
        ):
            number, _, problem = file.read().partition("\n")
            return (int(number) if int(number) > 0 else None), problem.strip()
        return None, ""

    def _fail_hung(self, states: dict[tuple[str, int], TaskState], pids: dict[str, dict[int, int | None]]) -> None:
        """Have the tasks fail that the supervisor of this host, which hangs, neither starts nor waits for."""
        words = f"{self.problem}. Nothing has changed for {records_file.HUNG_LIMIT_S:g} s"
        for job, tasks in pids.items():
            for task, pid in tasks.items():
                state = states[job, task].state
                if pid is not None:
                    has_ended = process_state(pid) in ("Z", "?")
                else:  # the lock may have come when it had started, before its process was noted
                    has_ended = state is State.RUNNING and not processes_with(["=".join(task_mark(job, task))])
                if has_ended or self._take_back(job, task, state, words):
                    states[job, task] = TaskState(State.FAILED, words)

    def _take_back(self, job: str, task: int, state: State, words: str) -> bool:
        """Have a task fail that has not started; return True if nobody knows that it has."""
        try:
            return self._records.change_task(job, task, "FAILED", words, before="WAITING")
        except FileLockedError:  # it may start when the lock is gone: a later script finds its result
            return state is State.WAITING

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
        self._records.cancel_tasks(job, tasks)

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
        except subprocess.TimeoutExpired:
            end(process)
            raise WorkerStartError(
                f"the supervisor of detached jobs did not start within {START_TIMEOUT_S:g} s"
            ) from None
        except BaseException:
            end(process)
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


def task_mark(submission: str, task: int) -> tuple[str, str]:
    """Return the variable by which the processes of a task are known, and its value."""
    return "PYMPIPOOL_TASK", f"{submission}.{task}"


def lock_path(directory: str, host: str) -> str:
    """Return the file that the supervisor of a host locks."""
    return os.path.join(directory, "detached", f"supervisor-{host}.lock")


def note_state(lock: int, problem: str) -> None:
    """Note the process and the problem of a supervisor in its lock, for scripts. Even a full disk has room for what was there."""
    text = f"{os.getpid()}\n{problem}".encode("utf-8", "replace")[:STATE_BYTES]
    with suppress(OSError):
        os.pwrite(lock, text.ljust(STATE_BYTES), 0)


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
