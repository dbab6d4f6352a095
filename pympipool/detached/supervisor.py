"""The program that runs the jobs of the backend "local": it outlives the scripts that submit them.

    jobs.sqlite ──► queue ──► a process for each task, in a session of its own ──► its state in jobs.sqlite

It ends when nothing has waited or run for `IDLE_S`. If it is killed, the sockets to its tasks close, and their watchdogs end them
with all that they have started. What they have started in sessions of its own, the next supervisor finds by a variable in the
environment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pympipool._util import signals
from pympipool._util.subprocesses import popen_with_socket
from pympipool.backends.local.job_processes import end_processes_with
from pympipool.caching import directory as directories
from pympipool.detached.local import note_state, task_mark, try_lock
from pympipool.detached.records import Records
from pympipool.detached.records_file import HUNG_LIMIT_S
from pympipool.detached.schedulers import LIFELINE
from pympipool.detached.spool import Spool
from pympipool.errors import describe_exit

IDLE_S = 2.0
"""How long the supervisor waits for further jobs."""

PAUSE_S = 0.05
"""Pause between two looks at the processes and the queue."""

PROBLEM_PAUSE_S = 1.0
"""Pause after a look that has failed."""

TERMINATION_S = 5.0
"""Seconds that a task has to end after SIGTERM."""

FORGOTTEN_S = 10.0
"""Seconds that a task has to end whose calls have ended, or were taken back."""

LINGER_S = 1.0
"""Seconds that an agent of an mpiexec has to clean up after it."""


class Task:
    """A task that runs.

    Args:
        submission: Its submission.
        number: Its number there.
        spec: What the submission needs.
        devices: The names of its GPUs.
        root: The folder of all submissions.
    """

    def __init__(self, submission: str, number: int, spec: dict[str, Any], devices: Sequence[str], root: str) -> None:
        self.submission = submission
        self.number = number
        self.cores: int = spec["cores"]
        self.devices = devices
        spool = Spool(root, submission)
        with open(os.path.join(spool.path, "environment.json"), encoding="utf-8") as file:
            environment: dict[str, str] = json.load(file)
        environment.pop("PYMPIPOOL_KEY", None)
        if devices:
            environment[spec["devices"][0]] = ",".join(devices)
        name, value = task_mark(submission, number)
        self.mark = f"{name}={value}"
        log = os.open(spool.log_path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with open(os.dup(log), "wb") as stderr:
                self.process, self._lifeline = popen_with_socket(
                    [*spec["command"], str(number)],
                    {**environment, name: value},
                    LIFELINE,
                    stdout=log,
                    stderr=stderr,
                )
        finally:
            os.close(log)
        limit_s = spec["limit_s"]
        self.words = ""
        self._code: int | None = None
        self.kill_s: float | None = None  # when it is to be killed
        self.deadline_s = None if limit_s is None else time.monotonic() + limit_s

    def end(self, words: str, grace_s: float) -> None:
        """Ask the task to end, and kill it later."""
        if self.kill_s is None:
            self.words = self.words or words
            self.kill_s = time.monotonic() + grace_s
            self._signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """Return the exit code if the task has ended, with all of its processes. Then it sends no more signals."""
        if self._code is not None:
            return self._code
        now_s = time.monotonic()
        if self.deadline_s is not None and now_s > self.deadline_s:
            self.end("TIMEOUT", TERMINATION_S)
        if self.kill_s is not None and now_s > self.kill_s:
            self._signal(signal.SIGKILL)
        self._code = self.process.poll()
        if self._code is not None:
            self._signal(signal.SIGKILL)
            end_processes_with([self.mark], LINGER_S)
            self._lifeline.close()
        return self._code

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Supervisor:
    """Runs the tasks of this host.

    Args:
        records: The records of the jobs.
        root: The folder of all submissions.
    """

    def __init__(self, records: Records, root: str) -> None:
        self._records = records
        self._root = root
        self._host = socket.gethostname()
        self._running: dict[tuple[str, int], Task] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        self._waits_for_devices = False  # a task that has come before
        self._is_recovered = False
        self._seen: tuple[int, int] | None = None  # the version of the records at the last look
        self._has_waiting = False

    def has_tasks(self) -> bool:
        """Return True if a task runs."""
        return bool(self._running)

    def recover(self) -> None:
        """End what a killed supervisor has left. Its tasks have failed; those that have not begun still wait."""
        ours = self._own_submissions()
        for submission, task, state, words, _ in self._records.tasks("RUNNING", "CANCEL"):
            if submission in ours:
                end_processes_with(["=".join(task_mark(submission, task))], LINGER_S)
                reason = (
                    words
                    if state == "CANCEL"
                    else "the supervisor of the detached jobs was killed, and this task with it"
                )
                self._records.change_task(submission, task, "FAILED", reason)

    def _own_submissions(self) -> set[str]:
        return {one.id for one in self._records.submissions() if one.host == self._host}

    def has_waiting(self) -> bool:
        """Return True if tasks wait; True too if that cannot be known."""
        try:
            ours = self._own_submissions()
            return any(submission in ours for submission, *_ in self._records.tasks("WAITING"))
        except (OSError, sqlite3.Error):
            return True

    def step(self) -> bool:
        """Look at all tasks once, if something has changed; return True if some wait or run."""
        if not self._is_recovered:
            self.recover()
            self._is_recovered = True
        self._reap()
        version = self._records.version()
        if version != self._seen:  # there may be 100 000 tasks, which take a tenth of a second
            self._look()
            self._seen = version
        return bool(self._has_waiting or self._running)

    def _look(self) -> None:
        ours = self._own_submissions()
        states = {}
        for submission, task, state, _, pid in self._records.tasks():
            if submission in ours:
                states[submission, task] = state
                self._note_pid(submission, task, state, pid)
        for key, running in self._running.items():
            if states.get(key) != "RUNNING":
                running.end("CANCELLED", TERMINATION_S if key in states else FORGOTTEN_S)
        waiting = [key for key, state in states.items() if state == "WAITING"]
        self._has_waiting = bool(waiting)
        self._waits_for_devices = False
        for submission, task in waiting:
            if not self._start(submission, task, states):
                break

    def _note_pid(self, submission: str, task: int, state: str, pid: int | None) -> None:
        """Note the process of a task, if that was not possible when it started."""
        running = self._running.get((submission, task))
        if running is not None and pid is None and state == "RUNNING":
            self._records.change_task(submission, task, "RUNNING", "", running.process.pid, before="RUNNING")

    def _reap(self) -> None:
        # First a look at all of them: on a full disk no end can be noted, and those that run keep their limits.
        codes = {key: code for key, task in self._running.items() if (code := task.poll()) is not None}
        for key, code in codes.items():
            words = self._running[key].words
            state = "ENDED" if code == 0 else "CANCELLED" if words == "CANCELLED" else "FAILED"
            self._records.change_task(*key, state, words or f"the task {describe_exit(code)}")
            del self._running[key]

    def _start(self, submission: str, task: int, states: dict[tuple[str, int], str]) -> bool:
        """Start a task if its inputs are there; return False if there are too few cores."""
        spec = self._spec(submission)
        if spec is None:
            return True
        needed = _states_of(spec["after"], states)
        if needed & {"FAILED", "CANCELLED"}:
            self._records.change_task(submission, task, "FAILED", "DependencyNeverSatisfied", before="WAITING")
            return True
        if needed - {"ENDED"}:
            return True
        limit = max([spec["cores_at_once"], *(self._specs[one]["cores_at_once"] for one, _ in self._running)])
        if sum(one.cores for one in self._running.values()) + spec["cores"] > limit:
            return False
        devices = self._devices(spec)
        if devices is None:
            return True
        if self._records.change_task(submission, task, "RUNNING", before="WAITING"):
            try:
                self._running[submission, task] = Task(submission, task, spec, devices, self._root)
            except OSError as error:
                self._records.change_task(submission, task, "FAILED", f"it cannot be started: {error}")
                return True
            self._note_pid(submission, task, "RUNNING", None)
        return True

    def _devices(self, spec: dict[str, Any]) -> list[str] | None:
        """Return the names of the GPUs for a task; None if too few are free, or one waits for some that has come before."""
        if not spec["gpus"]:
            return []
        used = {name for one in self._running.values() for name in one.devices}
        free = [name for name in spec["devices"][1] if name not in used]
        if self._waits_for_devices or len(free) < spec["gpus"]:
            self._waits_for_devices = True
            return None
        return free[: spec["gpus"]]

    def _spec(self, submission: str) -> dict[str, Any] | None:
        if submission not in self._specs:
            found = self._records.submission(submission)
            if found is None:
                return None
            self._specs[submission] = json.loads(found.spec)
        return self._specs[submission]


def _states_of(after: list[tuple[str, int | None]], states: dict[tuple[str, int], str]) -> set[str]:
    """Return the states of the tasks that must have ended before. Those of submissions that were forgotten have ended."""
    found = set()
    for submission, task in after:
        if task is not None:
            found.add(states.get((submission, task), "ENDED"))
        else:
            found |= {state for (one, _), state in states.items() if one == submission}
    return found


def main() -> None:
    """Run the program, with the cache directory as its argument.

    Raises:
        SystemExit: The directory cannot be used (code 1).
    """
    signals.reset()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # tasks do not inherit handlers, as they would SIG_IGN
    directory = directories.prepare(sys.argv[1], create=False)
    root = os.path.join(directory.path, "detached")
    lock = try_lock(directory.path, socket.gethostname())
    if lock is None or os.fork():  # another one was faster; or this is the parent, for which the script waits
        os._exit(0)
    note_state(lock, "")
    records = Records(root, is_shared=directory.is_shared)
    supervisor, told = Supervisor(records, root), ""
    while lock is not None:
        idle_since_s = time.monotonic()
        while time.monotonic() - idle_since_s < IDLE_S:
            try:
                os.utime(lock)  # scripts look at it, to see that this process goes on
                if supervisor.step():
                    idle_since_s = time.monotonic()
                if told:
                    told = ""
                    note_state(lock, told)
            except (
                OSError,
                sqlite3.Error,
            ) as problem:  # a full disk, for example: the tasks must not end with this process
                with suppress(OSError):
                    print(f"pympipool: {problem!r}; it is tried again", file=sys.stderr, flush=True)
                if told != str(problem):
                    told = str(problem)
                    note_state(lock, told)
                if not supervisor.has_tasks() and records.lock_problem(HUNG_LIMIT_S):
                    sys.exit(1)  # the next script starts another one
                idle_since_s = time.monotonic()
                time.sleep(PROBLEM_PAUSE_S)
            time.sleep(PAUSE_S)
        os.close(lock)
        # A script that has queued a task before, and has found the lock taken, counts on this supervisor. Without the lock no task
        # may start: the next supervisor would not know of it.
        lock = try_lock(directory.path, socket.gethostname()) if supervisor.has_waiting() else None
    with suppress(OSError):
        sys.stdout.flush()


__all__ = ["Supervisor", "Task", "main"]
