"""The job reaper: a process that outlives the master for a moment, to cancel its waiting jobs in flux.

    master ── a pipe that the master never writes to ──> job reaper ── the pipe closes: cancel all jobs of this name

Running workers notice the master's end by themselves. A job that still waits has no process that could notice it: the
job would stay in the queue, and start one day for nothing. If the master closes its executor properly, it ends the job
reaper before the pipe closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from time import monotonic, sleep
from typing import Any

from pympipool._util import signals, subprocesses
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError

REAP_TIMEOUT_S = 30.0
"""Seconds for which the job reaper tries to cancel jobs."""

CANCEL_TIMEOUT_S = 2.0
"""Seconds that jobs may take to end after they are cancelled; then they get SIGKILL."""

LATE_JOB_S = 0.5
"""Seconds after the master's end in which a job may still appear that was submitted in the master's last moment."""

POLL_INTERVAL_S = 0.1
"""Pause between two requests for the list of jobs."""


class JobReaper:
    """The job reaper of one executor, as its master sees it.

    Args:
        name: The beginning of the names of the executor's jobs.
        request: The request of any worker, for the environment.

    Raises:
        WorkerStartError: The system cannot start the process.
    """

    def __init__(self, name: str, request: LaunchRequest) -> None:
        environment = worker_environment(request)
        del environment["PYMPIPOOL_KEY"]
        try:
            self._process = subprocess.Popen(
                [*program_command("pympipool.backends.flux.job_reaper"), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # it must survive signals to the master's process group
            )
        except OSError as error:
            raise WorkerStartError(
                f"the process that cancels jobs after the master's end does not start: {error}"
            ) from error

    def close(self) -> None:
        """End the process without cancelling any job."""
        subprocesses.end(self._process)
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Close the pipe in a forked child."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def main() -> None:
    """Run the job reaper for the jobs whose names begin with the program's argument."""
    signals.reset()
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
    """Cancel the jobs whose names begin with this one, and wait until they have ended.

    Raises:
        OSError: The instance is gone.
    """
    begin = monotonic()
    while monotonic() - begin < REAP_TIMEOUT_S:
        jobs = _active_jobs(handle, name)
        if not jobs and monotonic() - begin > LATE_JOB_S:
            return
        for job_id in jobs:
            _end(handle, job_id, by_force=monotonic() - begin > CANCEL_TIMEOUT_S)
        sleep(POLL_INTERVAL_S)


def _active_jobs(handle: Any, name: str) -> list[int]:
    from flux.job import JobList

    jobs = JobList(handle, attrs=["name"], filters=["pending", "running"], max_entries=0).jobs()
    return [int(job.id) for job in jobs if job.name.startswith(f"{name}-")]


def _end(handle: Any, job_id: int, *, by_force: bool) -> None:
    from flux.job import cancel, kill

    try:
        if by_force:
            kill(handle, job_id, signal.SIGKILL)
        else:
            cancel(handle, job_id)
    except OSError:
        pass  # the job has ended meanwhile
