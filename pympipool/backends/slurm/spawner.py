"""Workers that SLURM starts: one `srun` for each, a step of the job that the script runs in, or else a job of its own.

    srun                     child of the master, leader of a session of its own
      slurmstepd             on the hosts that SLURM chooses
        rank 0 ... rank N-1  the worker's program

A worker on the master's own host connects to the master's Unix socket, a worker on any other host to the relay. The key
is in the environment that srun passes to SLURM's daemons. SLURM stores the environment of batch scripts, but not that
of steps and interactive jobs. The key is never in the command line, which accounting records.

srun is never trusted alone: it notices a dead host only after a minute, it waits for ever for a job that the controller
has forgotten, and when it is killed it leaves its step running. So a worker ends by itself when it loses the master, the
controller is asked for the job while the worker has not connected, and what a killed srun may have left is cancelled
(`job_watch.py`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence

from pympipool.backends.child_process import ChildProcess
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.relay_process import Relay
from pympipool.backends.slurm.duration import PartitionLimits
from pympipool.backends.slurm.job_watch import JobWatch
from pympipool.backends.slurm.srun import end_with_parent_command, names_own_job, srun_command, step_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError, describe_exit
from pympipool.resources import Resources

EXIT_TIMEOUT_S = 4.0
"""Seconds that srun may take to end after its worker, or after it is asked to; measured: 50 ms. On a busy host it needs more: what
the worker has printed last is on its way, and SLURM runs `task_epilog` after each of several ranks."""

DELIVERY_DELAY_S = 3.0
"""Seconds after the end of a worker in which messages from other hosts may still arrive through the relay."""

KILL_TIMEOUT_S = 60.0
"""Seconds that a worker may take to end after it was killed: the scheduler ends it, and may be busy."""

_TRANSIENT_ERRORS = ("temporarily", "Job/step already", "Requested nodes are busy")
"""Parts of the error messages of srun after which another try may succeed."""

_OUTAGES = {
    "Unable to contact": "SLURM's controller does not answer",
    "timed out": "SLURM does not answer in time",
    "onnection": "SLURM cannot be reached",
    "Zero Bytes": "SLURM cannot be reached",
    "missing socket": "SLURM cannot be reached",  # munged has been killed, or does not answer
    "Protocol authentication": "munge does not run, or the clocks of the hosts differ",
    "Munge": "munge does not answer",
    "Memory required by task is not available": "SLURM has no memory for it",  # for a while after a restart
}
"""What does not work, by parts of the error messages of srun. It may work again later."""


class SlurmSpawner(Spawner):
    """A spawner that starts the worker's program as a step of SLURM.

    Args:
        resources: What each worker needs.
        relay: For workers on other hosts.
        jobs: Shared by all spawners of one executor.
        limits: The longest times that may be asked for.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """

    is_queued = True

    def __init__(self, resources: Resources, relay: Relay, jobs: JobWatch, limits: PartitionLimits) -> None:
        self._relay = relay
        self.helpers = (relay,)
        self._jobs = None if names_own_job(resources) else jobs
        srun, *options = srun_command(resources, os.environ)
        self._command = [srun, *limits.option(resources, os.environ), *options, *program_command()]

    def prepare(self, request: LaunchRequest) -> bool:
        """Start the relay; return False while it starts."""
        return self._relay.prepare(request)

    def start(self, request: LaunchRequest) -> WorkerProcess:
        """Start srun for a worker.

        Raises:
            WorkerStartError: The system cannot start srun, or the relay does not start.
        """
        environment = step_environment(
            {
                **worker_environment(request),
                **self._relay.environment(request),
                # The worker checks this folder: srun only warns if it is missing.
                "PYMPIPOOL_CWD": request.cwd or os.getcwd(),
            }
        )
        command = [*end_with_parent_command(), *self._command]
        if self._jobs is None:
            return SrunProcess(command, environment, request, self._relay)
        name = self._jobs.name(request.number)
        index = command.index("srun") + 1
        command = [*command[:index], f"--job-name={name}", *command[index:]]
        return NamedSrunProcess(command, environment, request, self._relay, name, self._jobs)

    def close(self) -> None:
        """End the relay, and cancel what killed sruns have left."""
        self._relay.close()
        if self._jobs is not None:
            self._jobs.close()

    def after_fork_in_child(self) -> None:
        """Close the connection to the relay in a forked child."""
        self._relay.after_fork_in_child()
        if self._jobs is not None:
            self._jobs.after_fork_in_child()


class SrunProcess(ChildProcess):
    """An srun and its job or step, of which nothing is known but what srun does."""

    delivery_delay_s = DELIVERY_DELAY_S
    kill_timeout_s = KILL_TIMEOUT_S
    exit_grace_s = EXIT_TIMEOUT_S
    noisy_exit = True

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], request: LaunchRequest, relay: Relay
    ) -> None:
        super().__init__(command, environment, request.cwd)
        self._relay = relay
        self._relay_pid = relay.pid
        self._kill_timer: threading.Timer | None = None
        self._is_killed = False

    def exit_status_of(self, rank: int) -> tuple[int, int | None]:
        """Return the rank, and the exit code that srun reports for the step; None if srun was killed itself."""
        _, code = super().exit_status_of(rank)
        return rank, None if self._is_killed or code is None or code < 0 else code

    def loss_reason(self) -> str | None:
        """Return how srun was killed, if it was: then it says nothing of its step. Or return that the relay has ended."""
        code = self.poll()
        if (lost := self._relay.loss_reason(self._relay_pid, code)) is not None:
            return lost
        if self._is_killed:
            return (
                f"its connection has ended, and SLURM did not say why within {EXIT_TIMEOUT_S:g} s; its host may be down"
            )
        if code is None or code >= 0:
            return None
        hint = "; out of memory there?" if code == -signal.SIGKILL else ""
        return f"its srun on {self.host} (pid {self.pid}) {describe_exit(code)}{hint}"

    def is_delivering(self) -> bool:
        """Return True if the relay does not answer, and so may hold up messages."""
        return self._relay.is_silent()

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        """Return True if SLURM reports that there can be no such step, and not only that it is busy."""
        transient = (*_TRANSIENT_ERRORS, *_OUTAGES)
        errors = [line for line in last_stderr if line.startswith("srun: error: Unable to")]
        return any(not any(text in line for text in transient) for line in errors)

    def outage(self, last_stderr: Iterable[str]) -> str | None:
        """Return what srun reports that does not answer; None if it reports a final error too, which came later."""
        if self.failed_permanently(last_stderr := list(last_stderr)):
            return None
        errors = [line for line in last_stderr if line.startswith("srun: ")]
        return next((outage for text, outage in _OUTAGES.items() if any(text in line for line in errors)), None)

    def has_started(self) -> bool:
        """Return False: the step may still be waiting."""
        return False

    def kill(self) -> None:
        """Have srun end its step. If srun does not, cancel the step and kill srun."""
        if self.poll() is not None:
            super().kill()
            return
        if self._kill_timer is not None:
            return  # killing is under way
        self._is_killed = True
        self.terminate()
        self._signal_group(signal.SIGCONT)  # a stopped srun would not notice
        self._kill_timer = threading.Timer(EXIT_TIMEOUT_S, self._kill_by_force)
        self._kill_timer.daemon = True
        try:
            self._kill_timer.start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            self._kill_by_force()

    def kill_unreachable(self) -> None:
        """Kill srun, which would wait for an answer for a minute, and cancel its step."""
        self._kill_by_force()

    def _kill_by_force(self) -> None:
        self._is_killed = True
        super().kill()

    def close(self) -> None:
        """Release srun's process id, descriptor and pipes."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            if self._kill_timer.is_alive():
                self._kill_timer.join(1.0)  # it may be about to signal the id that is released here
        super().close()


class NamedSrunProcess(SrunProcess):
    """An srun whose job or step has a name by which SLURM's controller is asked for it."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        request: LaunchRequest,
        relay: Relay,
        name: str,
        jobs: JobWatch,
    ) -> None:
        super().__init__(command, environment, request, relay)
        self._name = name
        self._jobs = jobs
        try:
            self._job = jobs.watch(name)
        except BaseException:  # no memory, for example: nothing would end this srun any more
            super().kill()
            super().close()
            raise
        self._may_leave_job = True

    def has_started(self) -> bool:
        """Return False while the job or step waits.

        Raises:
            WorkerStartError: SLURM's controller does not know it any more, or will never start it.
        """
        self._jobs.ensure_thread()
        if self._job.refusal:
            raise WorkerStartError(
                f"SLURM will never start the job {self._name} ({self._job.refusal}), which asks for more time than is allowed: give"
                " a smaller time_limit or run_time_max, or another partition"
            )
        if self._job.forgotten:
            raise WorkerStartError(
                f"SLURM's controller has no job or step named {self._name} any more, while srun still waits for it (was the"
                " controller restarted without its state?)"
            )
        return self._job.is_running

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        """Return True if SLURM can start no such job."""
        return bool(self._job.refusal) or super().failed_permanently(last_stderr)

    def on_connected(self) -> None:
        """Ask for the job no more."""
        self._may_leave_job = False
        self._jobs.connected(self._name)

    def _kill_by_force(self) -> None:
        super()._kill_by_force()
        self._may_leave_job = True
        self._jobs.cancel(self._name)

    def close(self) -> None:
        """Release what belongs to srun. Cancel what it may have left."""
        code = self.poll()
        if self._may_leave_job or code is None or code < 0:
            self._jobs.cancel(self._name)
        else:
            self._jobs.ended(self._name)
        super().close()
