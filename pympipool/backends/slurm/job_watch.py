"""Asks SLURM's controller for the jobs, or steps, of one executor, and cancels those that nothing needs any more.

    SrunProcess ── watch(name) ───> thread ── squeue, one query for all, at growing intervals ──> JobState
                ── cancel(name) ──>        ── scancel, until no job of that name turns up any more
    close ── a shell script cancels what is left: the user's program may end now

An srun that waits for its job says nothing, and it waits for ever for a job that the controller has forgotten. An srun
that is killed may leave its job behind, or even a request for a job that the controller answers later. A controller that
is restarted after a crash may take a job for running that has ended. So each job has a name of its own, the controller
is asked by name, and jobs without an srun are cancelled. A worker that connects within a second, as almost all do,
causes no query.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import threading
from time import monotonic

from pympipool._util.service_threads import ServiceLogger, ServiceThread
from pympipool._util.subprocesses import run
from pympipool.backends.slurm.availability import CONTROLLER_TIMEOUT_S

LOGGER = ServiceLogger("pympipool.slurm")

FIRST_PAUSE_S = 1.0
"""Seconds from the start of an srun to the first query. The pause between two queries doubles from there."""

LONGEST_PAUSE_S = 15.0
"""Longest pause between two queries."""

CANCEL_PAUSE_S = 1.0
"""Pause between two queries while jobs are to be cancelled."""

CANCEL_PERIOD_S = 8.0
"""Seconds for which a job that is to be cancelled is looked for: the request of a killed srun may still be under way."""

CLOSING_PAUSE_S = 4
"""Last pause, in seconds, of the script that looks for such jobs after the end of an executor: 7 s in all."""

CANCEL_TIMEOUT_S = 300.0
"""Seconds after which a job is given up that cannot be cancelled, because the controller does not answer."""

FORGOTTEN_AFTER_S = 10.0
"""Seconds for which the controller must have answered without a job that it has listed before, until that job counts as
forgotten."""

NEVER_KNOWN_AFTER_S = 60.0
"""The same for a job that it has never listed. A busy controller takes its time to note a request."""

SILENCE_WARNING_S = 60.0
"""Seconds for which the controller may be silent before that is logged."""

_WAITING = ("PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
"""States of a job whose processes do not run."""

_NEVER = re.compile("PartitionTimeLimit|MaxWall")
"""Reasons of SLURM for which a job waits until an administrator changes something: it asks for more time than its partition,
account or quality of service allows."""

_CANCEL_SCRIPT = r"""
(
    trap '' HUP
    unset $(env | sed -n 's/^\(SQUEUE_[A-Z0-9_]*\)=.*/\1/p')
    for pause in 0 1 2 4 8 16; do
        sleep $pause
        found=$(squeue --me --all --noheader $3 --format='%i %j') || continue
        ids=$(printf '%s\n' "$found" | sed -n "s/^ *\([^ ]*\) $1-.*/\1/p")
        if [ -n "$ids" ]; then scancel --quiet $ids; elif [ $pause -ge $2 ]; then exit; fi
    done
) >/dev/null 2>&1 &
"""
"""Shell script that cancels all jobs whose names begin with its first argument, in the background. It ends when it finds none
after a pause of as many seconds as the second argument says."""


class JobState:
    """A job or step, as the controller has described it so far.

    Attributes:
        is_running: True if its processes run.
        was_listed: True if the controller has known it.
        forgotten: True if the controller knows it no longer, or has never known it.
        refusal: The reason why it will never start, in SLURM's words; "" if it may.
    """

    __slots__ = ("cancelled_s", "forgotten", "is_asked_for", "is_running", "missing_since_s", "refusal", "was_listed")

    def __init__(self) -> None:
        self.is_running = False
        self.was_listed = False
        self.forgotten = False
        self.refusal = ""
        self.missing_since_s: float | None = None  # of the first of the last answers, none of which listed it
        self.cancelled_s: float | None = None  # since when it is to be cancelled
        self.is_asked_for = False  # there was a query since then

    def update(self, answer: str | None, now_s: float, reason: str = "", *, waits_unseen: bool) -> None:
        """Take an answer of the controller.

        Args:
            answer: The state of the job, None if it is not listed.
            reason: Why it is in that state.
            waits_unseen: The controller does not list what waits.
        """
        if answer is None:
            self.missing_since_s = self.missing_since_s or now_s
            limit_s = FORGOTTEN_AFTER_S if self.was_listed else NEVER_KNOWN_AFTER_S
            self.forgotten = (self.was_listed or not waits_unseen) and now_s - self.missing_since_s >= limit_s
            return
        self.missing_since_s = None
        self.was_listed = True
        self.is_running = answer not in _WAITING
        self.refusal = reason if answer == "PENDING" and _NEVER.search(reason) else ""


class JobWatch:
    """The jobs of one executor, or its steps if the script runs in a job. Thread-safe.

    Args:
        steps: Workers are steps, not jobs of their own.
    """

    def __init__(self, *, steps: bool) -> None:
        self._prefix = f"pympipool-{secrets.token_hex(6)}"
        self._query = ["squeue", "--me", "--all", "--noheader"]
        self._query += [f"--format=%i %j {'RUNNING' if steps else '%T %r'}"]
        self._query += ["--steps"] if steps else []
        self._steps = steps
        self._jobs: dict[str, JobState] = {}  # those that are watched or to be cancelled
        self._live: set[str] = set()  # the names of those whose srun has not ended
        self._strays: set[str] = set()  # others that the last answer has listed
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._pause_s = FIRST_PAUSE_S
        self._answered_s: float | None = None
        self._was_silent = False  # the controller has not answered, and what it knows has not been checked since
        self._is_used = False

    def name(self, label: object) -> str:
        """Return the name for the job of a worker, whose number is the label, or of agents."""
        return f"{self._prefix}-{label}"

    def watch(self, name: str) -> JobState:
        """Ask for a job now and then, until it is forgotten or cancelled."""
        with self._changed:
            job = self._jobs[name] = JobState()
            self._live.add(name)
            self._is_used = True
            self._start_thread()
        return job

    def connected(self, name: str) -> None:
        """Ask for a job no more: its worker has connected."""
        with self._changed:
            self._jobs.pop(name, None)

    def ended(self, name: str) -> None:
        """Take note that an srun has ended as it should."""
        with self._changed:
            self._jobs.pop(name, None)
            self._live.discard(name)

    def cancel(self, name: str) -> None:
        """Cancel the job of this name, if there is one, or if there will be one within seconds."""
        with self._changed:
            job = self._jobs.setdefault(name, JobState())
            self._live.discard(name)
            if job.cancelled_s is None and not self._is_closed:
                job.cancelled_s = monotonic()
                self._start_thread()
                self._changed.notify()
            is_late = self._is_closed
        if is_late:  # the last worker of a pool is released after the pool has closed
            cancel_all(self._prefix, steps=self._steps)

    def ensure_thread(self) -> None:
        """Start the thread again if it could not be started while the system had no more threads."""
        if self._thread is None:
            with self._changed:
                if self._jobs:
                    self._start_thread()

    def close(self) -> None:
        """End the thread. Another process cancels what is left, since this one may end soon."""
        with self._changed:
            if self._is_closed:
                return
            is_unfinished = any(job.cancelled_s is not None for job in self._jobs.values()) or self._was_silent
            self._is_closed = True
            self._jobs.clear()
            self._changed.notify()
        if self._is_used:
            cancel_all(self._prefix, steps=self._steps, patient=is_unfinished)

    def after_fork_in_child(self) -> None:
        """Forget everything in a forked child: the jobs are the parent's."""
        self._changed = threading.Condition()
        self._jobs = {}
        self._is_closed = True

    # ---- the thread ----

    def _start_thread(self) -> None:
        if self._thread is not None or self._is_closed:
            return
        thread = ServiceThread("pympipool_slurm", self._run)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads: `ensure_thread` tries again
            return
        self._thread, self._pause_s, self._answered_s = thread, FIRST_PAUSE_S, None

    def _run(self) -> None:
        while self._wait():
            try:
                self._update(self._ask())
            except BaseException:  # no memory, for example, or what a `__del__` raises
                LOGGER.exception("unexpected failure in thread pympipool_slurm")

    def _wait(self) -> bool:
        """Wait until it is time for the next query; return False if there is nothing to ask for."""
        with self._changed:
            begin_s = monotonic()
            while (self._jobs or self._was_silent) and not self._is_closed:
                remaining_s = begin_s + self._next_pause_s() - monotonic()
                if remaining_s <= 0:
                    self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                    return True
                self._changed.wait(remaining_s)
            self._thread = None
            return False

    def _next_pause_s(self) -> float:
        cancelled = [job for job in self._jobs.values() if job.cancelled_s is not None]
        if not cancelled:
            return self._pause_s
        return CANCEL_PAUSE_S if all(job.is_asked_for for job in cancelled) else 0.0

    def _ask(self) -> dict[str, tuple[str, str, str]] | None:
        """Return id, state and its reason for each job of this executor by name; None if the controller does not answer."""
        with self._changed:
            for job in self._jobs.values():
                job.is_asked_for = job.cancelled_s is not None
        try:
            answer = run(self._query, timeout=CONTROLLER_TIMEOUT_S, env=_without_filters())
        except (OSError, subprocess.SubprocessError):
            return None
        if answer.returncode != 0:
            return None
        lines = (line.split() for line in answer.stdout.splitlines() if self._prefix in line)
        return {words[1]: (words[0], words[2], " ".join(words[3:])) for words in lines if len(words) >= 3}

    def _update(self, listed: dict[str, tuple[str, str, str]] | None) -> None:
        now_s = monotonic()
        if listed is None:
            self._not_answered(now_s)
            return
        self._answered_s = now_s
        with self._changed:
            to_cancel = []
            for name, job in list(self._jobs.items()):
                number, state, reason = listed.get(name, (None, None, ""))
                job.update(state, now_s, reason, waits_unseen=self._steps)
                if job.cancelled_s is None:
                    continue
                if number is not None:
                    to_cancel.append(number)
                elif now_s - job.cancelled_s > CANCEL_PERIOD_S:
                    del self._jobs[name]
            unknown = listed.keys() - self._live - self._jobs.keys()
            strays = {name for name in unknown if listed[name][1] != "COMPLETING"}
            to_cancel += [listed[name][0] for name in strays & self._strays]  # not those that are just ending
            self._strays = strays
            self._was_silent = bool(strays)
        if to_cancel:
            try:
                run(["scancel", "--quiet", *to_cancel], timeout=CONTROLLER_TIMEOUT_S)
            except (OSError, subprocess.SubprocessError):
                pass  # the next round tries again

    def _not_answered(self, now_s: float) -> None:
        if self._answered_s is None:
            self._answered_s = now_s
        elif now_s - self._answered_s > SILENCE_WARNING_S:
            LOGGER.warning("SLURM's controller has not answered for %d s; waiting for it", now_s - self._answered_s)
            self._answered_s = None
        with self._changed:
            self._was_silent = True
            for name, job in list(self._jobs.items()):
                job.missing_since_s = None
                if job.cancelled_s is not None and now_s - job.cancelled_s > CANCEL_TIMEOUT_S:
                    del self._jobs[name]


def _without_filters() -> dict[str, str]:
    """Return this process's environment without the variables with which users hide jobs from `squeue`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}


def cancel_all(prefix: str, *, steps: bool, patient: bool = True) -> None:
    """Cancel all jobs of an executor, in a process that may outlive this one.

    Args:
        prefix: The beginning of their names, without the worker's number.
        steps: They are steps, not jobs.
        patient: Look for jobs that turn up later too, for some seconds. Otherwise end when there are none.
    """
    least_pause_s = CLOSING_PAUSE_S if patient else 0
    script = ["sh", "-c", _CANCEL_SCRIPT, "sh", prefix, str(least_pause_s), *(["--steps"] if steps else [])]
    try:
        run(script, timeout=CONTROLLER_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        LOGGER.warning("jobs of SLURM whose names begin with %s may be left: %s", prefix, error)
