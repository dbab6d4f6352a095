"""The program of a task: it runs the calls of the task, and leaves how each has ended in the folder of the submission.

    one rank       run.py ─► the calls of the task, one after the other
    several        slurm: srun ─► rank.py on each rank;    local: run.py ─► mpiexec ─► rank.py on each rank

A task that runs again, because its scheduler has put it back into the queue, leaves the calls alone that have ended.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from pympipool._util import signals
from pympipool.caching import directory as directories
from pympipool.detached.calls import Inputs
from pympipool.detached.schedulers import LIFELINE
from pympipool.detached.spool import Spool
from pympipool.errors import SerializationError
from pympipool.serialization import payload
from pympipool.serialization.exceptions import dump_exception
from pympipool.worker.call_forks import CallForks

if TYPE_CHECKING:
    from pympipool.caching.store import Store

__all__ = ["ALIVE", "CALL_FAILED", "TAKEN_BACK", "Job", "begin", "end_task", "main", "open_job"]

CALL_FAILED = 3
"""Exit code of a task one of whose calls has raised: those that depend on it do not start."""

TAKEN_BACK = 4
"""Exit code of a task whose submission was taken back before it began."""


ALIVE = "PYMPIPOOL_ALIVE"
"""The variable that has the file that the program of a task on this machine locks while its ranks run."""


class Job:
    """What a process of a task knows of it.

    Args:
        directory: The cache directory.
        submission: The id of the submission.
        task: The number of the task.

    Raises:
        FileNotFoundError: The submission was taken back.
        PermissionError: Another user can write to the directory.
    """

    def __init__(self, directory: str, submission: str, task: int) -> None:
        self._directory = directories.prepare(directory, create=False).path
        self.root = os.path.join(self._directory, "detached")
        self.spool = Spool(self.root, submission)
        self.common = self.spool.read_common()
        chunk = self.common["chunk"]
        self.numbers = range(task * chunk, min((task + 1) * chunk, self.common["calls"]))
        self.task = task
        self._is_raised = False  # what is raised now is the call's own exception
        self._forks = CallForks()  # one for all calls: each has hooks for forks, which cannot be removed
        self.where = f"task {task} of detached job {submission} (host {os.uname().nodename}, pid {os.getpid()})"

    def prepare(self) -> None:
        """Make this process look like the script to the functions that will run in it."""
        from pympipool.worker.script_names import make_script_module

        os.chdir(self.common["cwd"])
        self._forks.watch()
        make_script_module(None)  # type: ignore[arg-type]  # there is no script to ask
        sys.argv[:] = self.common["argv"]
        sys.path[:] = self.common["path"]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file

    def run_call(self, number: int) -> tuple[Any, int]:
        """Run a call; return its result and the time that it took (ns).

        Raises:
            BaseException: What the call raises.
        """
        from pympipool.worker.call_runner import CallRunner

        places, parts = self.spool.read_call(number)
        begin_ns = monotonic_ns()
        with Inputs(self.root, places, self._open_store).in_use(), self._time_limit(number):
            runner = CallRunner({}, forks=self._forks)
            self._is_raised = True
            result = runner.run(0, parts)
            self._is_raised = False
        return result, monotonic_ns() - begin_ns

    def _open_store(self) -> Store:
        from pympipool.caching.store import Store

        return Store(self._directory, create=False)

    def _time_limit(self, number: int) -> TimeLimit:
        def on_late(limit_s: float) -> None:
            error = TimeoutError(
                f"{self.common['function']}() took longer than run_time_max={limit_s:g} s; it was ended"
            )
            self.spool.write_end(number, dump_exception(error, self.where), is_error=True, run_ns=int(limit_s * 1e9))

        return TimeLimit(self.common["run_time_max"], on_late)

    def write_result(self, number: int, parts: list[Any], run_ns: int) -> None:
        """Write the result of a call: with classes of the script by their names, as the next script has its own."""
        from pympipool.caching.results import by_reference

        if payload.must_be_unpickled(parts):
            parts = [bytes(part) for part in parts]
            self.spool.write_value(number, parts)
            parts = by_reference(payload.load_copy(parts))
        self.spool.write_end(number, parts, is_error=False, run_ns=run_ns)

    def write_error(self, number: int, error: BaseException) -> None:
        """Write the exception of a call, and whether the call itself has raised it."""
        is_kind = isinstance(error, Exception) and not isinstance(error, (SerializationError, MemoryError))
        parts = dump_exception(error, self.where)
        self.spool.write_end(number, parts, is_error=True, run_ns=0, is_raised=self._is_raised and is_kind)
        self._is_raised = False


class TimeLimit:
    """Ends this process, and the processes of its group, if a call takes too long.

    Args:
        limit_s: The longest time of a call (s); None: there is no limit.
        on_late: Called before. Then the call does not come back.
    """

    def __init__(self, limit_s: float | None, on_late: Callable[[float], object]) -> None:
        self._timer = None if limit_s is None else threading.Timer(limit_s, self._end, (limit_s, on_late))
        self._is_open = [
            True
        ]  # taken by the end of the call, or by that of its time: only one of them notes how it has ended

    def __enter__(self) -> TimeLimit:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            if not self._take():
                self._timer.join()  # it ends this process

    def _end(self, limit_s: float, on_late: Callable[[float], object]) -> None:
        if self._take():
            try:
                on_late(limit_s)
            finally:
                end_task(CALL_FAILED)

    def _take(self) -> bool:
        with suppress(IndexError):
            return self._is_open.pop()
        return False


def end_task(code: int) -> None:
    """End this process at once, whatever its threads do. What has started the ranks of a call ends the others."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # code of the user may have replaced the stream
            stream.flush()
    os._exit(code)  # MPI_Abort may wait for a call of MPI in another thread


def main() -> None:
    """Run the calls of a task. Arguments: the cache directory, the id of the submission, the number of the task.

    Raises:
        SystemExit: A call has raised, or the submission was taken back.
    """
    directory, submission, task = sys.argv[1:4]
    begin()
    job = open_job(directory, submission, int(task))
    if job.common["ranks"] > 1:
        sys.exit(_run_ranks(job, sys.argv[1:4]))
    job.prepare()
    failed, pid = False, os.getpid()
    for number in job.numbers:
        end = job.spool.end(number)
        if end is not None:
            failed = failed or end.is_error
            continue
        try:
            result, run_ns = job.run_call(number)
            _end_fork(pid)
            job.write_result(number, payload.dump(result, "the result"), run_ns)
            del result
        except BaseException as error:  # SystemExit too, as in a worker
            _end_fork(pid)
            failed = True
            job.write_error(number, error)
    sys.stdout.flush()
    sys.exit(CALL_FAILED if failed else 0)


def _end_fork(pid: int) -> None:
    """End this process if it is a fork that a call has made, and that has come back from the call: it has no part in the task."""
    if os.getpid() != pid:
        end_task(0)


def begin() -> None:
    """Reset the signals, and end with the supervisor, if there is one."""
    from pympipool._core.ring import start_watchdog

    signals.reset()
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is not None:
        start_watchdog(int(lifeline))
        os.set_inheritable(int(lifeline), False)


def open_job(directory: str, submission: str, task: int) -> Job:
    """Return the job, and note its number for scripts.

    Raises:
        SystemExit: The submission was taken back.
    """
    try:
        job = Job(directory, submission, task)
        number = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
        if number and job.common["scheduler"] == "slurm" and not job.spool.read_id():
            job.spool.write_id(number)
    except FileNotFoundError:
        print(f"pympipool: {submission} was taken back, nothing is left to do", file=sys.stderr)
        sys.exit(TAKEN_BACK)
    return job


def _run_ranks(job: Job, arguments: list[str]) -> int:
    """Run the ranks of a call on this machine; return the exit code of the task."""
    import fcntl
    import subprocess

    from pympipool.backends.local.mpiexec import launch_command
    from pympipool.backends.program import program_command

    alive = os.path.join(job.spool.path, f"alive.{job.task}")
    descriptor = os.open(alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as long as this process lives
    command, environment = launch_command(job.common["ranks"], {**os.environ, ALIVE: alive})
    os.chdir(job.common["cwd"])
    process = subprocess.Popen(
        [*command, *program_command("pympipool.detached.rank"), *arguments], stdin=subprocess.DEVNULL, env=environment
    )
    return CALL_FAILED if process.wait() else 0
