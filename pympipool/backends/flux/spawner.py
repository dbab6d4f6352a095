"""Workers that flux starts: a job for each, in the instance that the script runs in or can reach.

    flux-shell               on the hosts that flux chooses
      rank 0 ... rank N-1    the worker's program

A worker on the master's own host connects to the master's Unix socket, a worker on any other host to the relay. Where
the whole instance is on the master's host there is no relay. No process of this host stands for the job: its state and
its output come from the flux instance (`connection.py`). When the master is killed, running workers end by themselves,
and waiting jobs are cancelled by the job reaper (`job_reaper.py`).

The key is in the environment of the jobspec, which flux keeps where only the user and the owner of the instance can
read it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
from collections.abc import Iterable
from time import time
from typing import BinaryIO, cast

from pympipool._util.signals import SigpipeBlocked
from pympipool.backends.flux.connection import CANCEL_TIMEOUT_S, FluxConnection, Job
from pympipool.backends.flux.duration import DurationLimits
from pympipool.backends.flux.job_reaper import JobReaper
from pympipool.backends.flux.jobspec import make_jobspec, pmi_of
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.relay_process import Relay
from pympipool.backends.shm_cleanup import remove_stale_shm
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.resources import Resources

DELIVERY_DELAY_S = 3.0
"""Seconds after the end of a worker in which messages from other hosts may still arrive through the relay."""

KILL_TIMEOUT_S = 60.0
"""Seconds that a worker may take to end after it was killed: the scheduler ends it, and may be busy."""

INSTANCE_END_S = 15.0
"""Seconds that the flux instance of a worker may take to end, after the worker or when it is cancelled. Measured: 1 to 5 s.
One that gets SIGKILL leaves its folder in TMPDIR."""

PERMANENT_FAILURES = ("submit", "alloc", "depend", "cancel", "timeout")
"""Types of flux's job exceptions after which no other try is made: it would fail in the same way, or a person ended the
job on purpose. For other types ("exec", for example) not even flux knows."""


class FluxSpawner(Spawner):
    """A spawner that starts the worker's program as a job of flux.

    Args:
        resources: What each worker needs, and the FluxExecutor to submit to, or None.
        session: Shared by all spawners of one executor.
        relay: For workers on other hosts; None where there are no other hosts.
        durations: The times that the instance allows.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """

    is_queued = True

    def __init__(
        self, resources: Resources, session: FluxSession, relay: Relay | None, durations: DurationLimits
    ) -> None:
        self._resources = resources
        self._session = session
        self._relay = relay
        self._durations = durations
        self.helpers = () if relay is None else (relay,)
        self._command = program_command()
        self._pmi = pmi_of(resources)

    def prepare(self, request: LaunchRequest) -> bool:
        """Start the relay; return False while it starts."""
        return self._relay is None or self._relay.prepare(request)

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Submit the job of a worker.

        Raises:
            WorkerStartError: The instance is gone, a FluxExecutor takes no more jobs, or the relay does not start.
        """
        cwd = request.cwd or os.getcwd()
        # The worker checks PYMPIPOOL_CWD: flux only warns if the folder is missing.
        environment = {**worker_environment(request), "PYMPIPOOL_CWD": cwd}
        if self._relay is not None:
            environment.update(self._relay.environment(request))
        connection = self._session.connection(request)
        jobspec = make_jobspec(
            self._resources,
            self._command,
            name=f"{self._session.name}-{request.number}",
            environment=environment,
            cwd=cwd,
            pmi=self._pmi,
            duration_s=self._durations.seconds(self._resources),
            log_file=os.path.join(cwd, f"flux_{request.number}") if self._resources.flux_log_files else None,
        )
        return FluxProcess(connection, json.dumps(jobspec), self._resources, self._relay)

    def close(self) -> None:
        """End the relay, the job reaper and the connection to flux."""
        if self._relay is not None:
            self._relay.close()
        self._session.close()

    def after_fork_in_child(self) -> None:
        """Close the connections to the relay and the job reaper in a forked child."""
        if self._relay is not None:
            self._relay.after_fork_in_child()
        self._session.after_fork_in_child()


class FluxSession:
    """The state that all jobs of one executor share: the beginning of their names, the connection, the job reaper.

    Attributes:
        name: The beginning of the names of all jobs.
    """

    def __init__(self) -> None:
        self.name = f"pympipool-{secrets.token_hex(4)}"
        self._connection: FluxConnection | None = None
        self._job_reaper: JobReaper | None = None

    def connection(self, request: LaunchRequest) -> FluxConnection:
        """Return the connection to submit to. The first request starts it, and the job reaper."""
        if self._connection is None:
            self._job_reaper = JobReaper(self.name, request)
            self._connection = FluxConnection()
        return self._connection

    def close(self) -> None:
        """End the connection's thread and the job reaper. To be called after all jobs have ended."""
        if self._connection is not None:
            self._connection.close()
        if self._job_reaper is not None:
            self._job_reaper.close()

    def after_fork_in_child(self) -> None:
        """Close the pipe to the job reaper in a forked child: the reaper watches the parent."""
        if self._job_reaper is not None:
            self._job_reaper.after_fork_in_child()


class FluxProcess(WorkerProcess):
    """A job of flux as a worker's process.

    Three pipes lead from the connection's thread to the pool's: two carry the job's output, and the third closes at its
    end.
    """

    delivery_delay_s = DELIVERY_DELAY_S
    kill_timeout_s = KILL_TIMEOUT_S

    def __init__(
        self,
        connection: FluxConnection,
        jobspec: str,
        resources: Resources,
        relay: Relay | None,
        critical_ranks: str | None = None,
    ) -> None:
        self._has_ranks = resources.cores > 1
        if resources.executor_nesting:
            self.exit_grace_s, self.noisy_exit = INSTANCE_END_S, True
        self._relay = relay
        self._relay_pid = None if relay is None else relay.pid
        self._started_s = time()
        self.pid = 0  # no process of this host stands for the job
        self.host = socket.gethostname()
        self._exit_code: int | None = None
        self._failure: str | None = None
        self._status, self._status_writer = os.pipe()
        stdout, stdout_writer = os.pipe()
        stderr, stderr_writer = os.pipe()
        self._writers = {"stdout": stdout_writer, "stderr": stderr_writer}
        if not resources.flux_log_files:
            # Ranks on this host print here directly: flux stores each printed line, and passes on only 2000 a second.
            self.direct_output = (stdout_writer, stderr_writer)
        for descriptor in (stdout, stderr):
            os.set_blocking(descriptor, False)
        self.stdout = cast(BinaryIO, os.fdopen(stdout, "rb", buffering=0))
        self.stderr = cast(BinaryIO, os.fdopen(stderr, "rb", buffering=0))
        self._connection = connection
        try:
            self._job: Job = connection.submit(
                jobspec,
                self,
                resources.executor,
                urgency=resources.priority,
                cancel_timeout_s=INSTANCE_END_S if resources.executor_nesting else CANCEL_TIMEOUT_S,
                critical_ranks=critical_ranks,
            )
        except BaseException:
            self.on_end(0, None)
            self.close()
            raise

    # ---- in the connection's thread ----

    def on_output(self, stream: str, data: bytes) -> None:
        """Pass on what the job has printed."""
        remaining = memoryview(data)
        while remaining:
            try:
                with SigpipeBlocked():
                    remaining = remaining[os.write(self._writers[stream], remaining) :]
            except OSError:  # the pool has closed its end
                return

    def on_end(self, exit_code: int, failure: str | None) -> None:
        """Record the end of the job, and close the pipes."""
        self._failure = failure
        self._exit_code = exit_code
        self.direct_output = None
        for descriptor in (*self._writers.values(), self._status_writer):
            os.close(descriptor)

    # ---- in the pool's thread ----

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable at the end."""
        return self._status

    def poll(self) -> int | None:
        """Return the exit code: 128 + N for signal N, 1 for a job that never ran, None until the job has ended."""
        return self._exit_code

    def has_started(self) -> bool:
        """Return False while the job waits."""
        return self._job.has_started

    def is_delivering(self) -> bool:
        """Return True if the relay does not answer, and so may hold up messages."""
        return self._relay is not None and self._relay.is_silent()

    def loss_reason(self) -> str | None:
        """Return that the relay has ended, if it has."""
        return None if self._relay is None else self._relay.loss_reason(self._relay_pid, self._exit_code)

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        """Return True if flux reports that there can be no such job, or if a person has cancelled it."""
        return self._failure in PERMANENT_FAILURES

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None on timeout."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self.poll()

    def terminate(self) -> None:
        """Ask the ranks to end (SIGTERM)."""
        self._connection.signal(self._job, signal.SIGTERM)

    def kill(self) -> None:
        """Have flux cancel the job, whether it is waiting or running."""
        if self._exit_code is None:
            self._connection.cancel(self._job)

    def close(self) -> None:
        """Close the descriptors, and remove what killed ranks have left in /dev/shm."""
        os.close(self._status)
        self.stdout.close()
        self.stderr.close()
        if self._has_ranks and self._exit_code != 0:
            remove_stale_shm(self._started_s)
