"""The guard: a process beside the master that outlives him by a moment, to cancel what he leaves in flux's queue.

    master ── a pipe that he never writes to ──> guard ── its end: cancel all jobs of this name

Running workers notice the master's end by themselves. A job that still waits has nobody who could: it would stay in
the queue, and start one day for nothing. If the master ends his executor properly, the guard is ended before the pipe is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from time import monotonic, sleep
from typing import Any

from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

LIMIT_S = 30.0
"""How long the guard tries."""

CANCEL_S = 2.0
"""How long jobs may take to end when they are cancelled, before they get SIGKILL."""

LATE_S = 0.5
"""How long a job may take to appear that was submitted in the master's last moment."""

PAUSE_S = 0.1


class JobReaper:
    """The guard of one executor.

    Args:
        name: With which the names of its jobs begin.
        order: Of a worker, for the environment.

    Raises:
        WorkerStartError: The system refuses to start it.
    """

    def __init__(self, name: str, order: LaunchRequest) -> None:
        environment = worker_environment(order)
        del environment["PYMPIPOOL_KEY"]
        try:
            self._process = subprocess.Popen(
                [*program_command("pympipool.backends.flux.guard"), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # it must survive what ends the master's group
            )
        except OSError as error:
            raise WorkerStartError(
                f"the process that cancels jobs after the master's end does not start: {error}"
            ) from error

    def close(self) -> None:
        """Ends it; nothing is cancelled."""
        self._process.kill()
        self._process.wait()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of its pipe."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def main() -> None:
    """Runs the guard for the jobs whose names begin with the program's argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1):
        pass
    import flux

    try:
        cancel_all(flux.Flux(), sys.argv[1])
    except OSError:
        pass  # the instance has gone, and its jobs with it


def cancel_all(handle: Any, name: str) -> None:
    """Cancels the jobs whose names begin so, and waits until there are none.

    Raises:
        OSError: The instance is gone.
    """
    begin = monotonic()
    while monotonic() - begin < LIMIT_S:
        jobs = _active_jobs(handle, name)
        if not jobs and monotonic() - begin > LATE_S:
            return
        for number in jobs:
            _end(handle, number, by_force=monotonic() - begin > CANCEL_S)
        sleep(PAUSE_S)


def _active_jobs(handle: Any, name: str) -> list[int]:
    from flux.job import JobList

    jobs = JobList(handle, attrs=["name"], filters=["pending", "running"], max_entries=0).jobs()
    return [int(job.id) for job in jobs if job.name.startswith(f"{name}-")]


def _end(handle: Any, number: int, *, by_force: bool) -> None:
    from flux.job import cancel, kill

    try:
        if by_force:
            kill(handle, number, signal.SIGKILL)
        else:
            cancel(handle, number)
    except OSError:
        pass  # it has ended meanwhile
