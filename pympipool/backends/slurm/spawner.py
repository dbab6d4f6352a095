"""Workers that SLURM starts: one `srun` for each, a step of the job that the script runs in, or else a job of its own.

    srun                     child of the master, leader of a session of its own
      slurmstepd             on the hosts that SLURM chooses
        rank 0 ... rank N-1  the worker's program

A worker on the master's own host connects to the master's Unix socket, a worker on any other host to the relay. The key
is in the environment that srun passes to SLURM's daemons. SLURM stores the environment of batch scripts, but not that
of steps and interactive jobs. The key is never in the command line, which accounting records.

srun is never trusted alone: it notices a dead host only after a minute, and when it is killed it leaves its step
running. So a worker ends by itself when it loses the master, and the remains of a step are cancelled by the step's
name.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence

from pympipool._util.subprocesses import run
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.relay_process import Relay
from pympipool.backends.slurm.availability import CONTROLLER_TIMEOUT_S
from pympipool.backends.slurm.srun import end_with_parent_command, srun_command, step_environment
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.resources import Resources

EXIT_TIMEOUT_S = 1.0
"""Seconds that srun may take to end after it is asked to; measured: 50 ms."""

DELIVERY_DELAY_S = 3.0
"""Seconds after the end of a worker in which messages from other hosts may still arrive through the relay."""

KILL_TIMEOUT_S = 60.0
"""Seconds that a worker may take to end after it was killed: the scheduler ends it, and may be busy."""

_TRANSIENT_ERRORS = ("timed out", "temporarily", "contact", "onnection", "Job/step already", "Requested nodes are busy")
"""Parts of the error messages of srun after which another try may succeed."""


class SlurmSpawner(Spawner):
    """A spawner that starts the worker's program as a step of SLURM.

    Args:
        resources: What each worker needs.
        relay: For workers on other hosts.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """

    is_queued = True

    def __init__(self, resources: Resources, relay: Relay) -> None:
        self._relay = relay
        self._command = [*srun_command(resources, os.environ), *program_command()]

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
        name = f"pympipool-{request.number}-{secrets.token_hex(4)}"
        command = [*end_with_parent_command(), *self._command]
        index = command.index("srun") + 1
        return SrunProcess([*command[:index], f"--job-name={name}", *command[index:]], environment, request.cwd, name)

    def close(self) -> None:
        """End the relay."""
        self._relay.close()

    def after_fork_in_child(self) -> None:
        """Close the connection to the relay in a forked child."""
        self._relay.after_fork_in_child()


class SrunProcess(ChildProcess):
    """An srun and its step."""

    delivery_delay_s = DELIVERY_DELAY_S
    kill_timeout_s = KILL_TIMEOUT_S
    noisy_exit = True

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None, name: str) -> None:
        super().__init__(command, environment, cwd)
        self._name = name
        self._job = environment.get("SLURM_JOB_ID")
        self._kill_timer: threading.Timer | None = None

    def failed_permanently(self, last_stderr: Iterable[str]) -> bool:
        """Return True if SLURM reports that there can be no such step, and not only that it is busy."""
        errors = [line for line in last_stderr if line.startswith("srun: error: Unable to")]
        return any(not any(text in line for text in _TRANSIENT_ERRORS) for line in errors)

    def kill(self) -> None:
        """Have srun end its step. If srun does not, cancel the step and kill srun."""
        if self.poll() is not None:
            super().kill()
            return
        if self._kill_timer is not None:
            return  # killing is under way
        self.terminate()
        self._signal_group(signal.SIGCONT)  # a stopped srun would not notice
        self._kill_timer = threading.Timer(EXIT_TIMEOUT_S, self._kill_by_force)
        self._kill_timer.daemon = True
        try:
            self._kill_timer.start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            super().kill()

    def kill_unreachable(self) -> None:
        """Kill srun, which would wait for an answer for a minute, and cancel its step in another thread."""
        super().kill()
        try:
            threading.Thread(target=cancel, args=(self._name, self._job), daemon=True).start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            pass

    def _kill_by_force(self) -> None:
        super().kill()
        cancel(self._name, self._job)

    def close(self) -> None:
        """Release srun's process id, descriptor and pipes."""
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        super().close()


def cancel(name: str, job: str | None) -> None:
    """Cancel the step of this name in a job, or without a job the jobs of this name.

    Steps that cannot be reached are left alone.
    """
    try:
        if job is None:
            _run("scancel", "--quiet", f"--name={name}")
            return
        for line in _run("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j").splitlines():
            step, _, step_name = line.strip().partition(" ")
            if step_name == name:
                _run("scancel", "--quiet", step)
    except (OSError, subprocess.SubprocessError):
        pass  # the controller does not answer: the worker ends by itself, as it has lost its master


def _run(*command: str) -> str:
    return run(command, timeout=CONTROLLER_TIMEOUT_S).stdout
