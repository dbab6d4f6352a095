"""Workers that SLURM starts: one `srun` for each, a step of the job that the script runs in, or else a job of its own.

    srun                     our child, leader of a session of its own
      slurmstepd             on the hosts that SLURM chooses
        rank 0 ... rank N-1  the worker's program

A worker on the master's own host connects to his Unix socket, one on any other host to the relay. The key is in the
environment that srun hands to SLURM's daemons: that of a step or an interactive job is kept nowhere, unlike a batch
script's. It is never in the command line, which accounting records.

srun is never trusted alone: it notices a dead host after a minute, and killed by force it leaves its step running. So a
worker ends by itself when it loses the master, and what is left of a step is cancelled by its name.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from pympipool._util.subprocesses import run
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.mpi_library import Kind, loaded_library
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources

CONTROLLER_LIMIT_S = 10.0
"""How long SLURM's controller may take to answer."""

REMEMBERED_S = 5.0
"""How old an answer of the controller's may be: executors are made one after the other, and where it is silent, or munge
does not run, each would wait for seconds."""

TIDY_UP_S = 1.0
"""How long srun may take to end when it is asked to; measured: 50 ms."""

LAST_WORDS_S = 3.0

REMEDY = (
    "run the script where `sinfo` works (a login node, or inside salloc or sbatch), or use backend='mpi' for this"
    " machine alone"
)

_MPI_PLUGINS = {Kind.HYDRA: "pmi2", Kind.OPEN_MPI: "pmix"}
"""What `srun --mpi=` needs so that the ranks of a library find each other; the wrong one gives worlds of size 1."""

_INHERITED = (
    "SLURM_GPU",
    "SLURM_NTASKS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_TRES_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_CPUS_PER_GPU",
    "SLURM_MEM_PER_GPU",
    "SLURM_STEP_",
)
_INHERITED_WHOLE = (
    "SLURM_NNODES",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NPROCS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_HINT",
    "SLURM_MPI_TYPE",
    "SLURM_EXPORT_ENV",
    "SLURM_WORKING_DIR",
    "SLURM_EXCLUSIVE",
    "SLURM_WAIT",
    "SLURM_LABELIO",
)
"""Variables of a job that srun takes for options, and that were meant for the whole job."""

_BUSY = ("timed out", "temporarily", "contact", "onnection", "Job/step already", "Requested nodes are busy")
"""Words of errors that may not come again."""


class _Answer(NamedTuple):
    """What came of asking: with what environment, when (monotonic clock, s), and why SLURM cannot be used."""

    environment: tuple[str | None, ...]
    at_s: float
    problem: str | None


_last_answer: _Answer | None = None


def _environment() -> tuple[str | None, ...]:
    """What decides who is asked."""
    return tuple(map(os.environ.get, ("PATH", "SLURM_CONF", "SLURM_JOB_ID")))


def _remembered() -> _Answer | None:
    """The last answer, if it is not too old."""
    last = _last_answer
    return last if last and last.environment == _environment() and monotonic() - last.at_s < REMEMBERED_S else None


def why_no_slurm_lately(limit_s: float = CONTROLLER_LIMIT_S) -> str | None:
    """As `why_no_slurm`, but an answer of the last `REMEMBERED_S` will do."""
    answer = _remembered()
    return answer.problem if answer else why_no_slurm(limit_s)


def why_no_slurm(limit_s: float = CONTROLLER_LIMIT_S) -> str | None:
    """Why SLURM cannot be used here; None when it can: an installed srun is not enough, its controller must answer."""
    global _last_answer
    problem = _ask_whether_it_answers(limit_s)
    _last_answer = _Answer(_environment(), monotonic(), problem)
    return problem


def _ask_whether_it_answers(limit_s: float) -> str | None:
    for program in ("srun", "squeue", "scancel"):
        if shutil.which(program) is None:
            return f"there is no program {program!r} in PATH"
    configuration = os.environ.get("SLURM_CONF")
    if configuration is not None and not os.path.exists(configuration):  # SLURM itself would look again for a minute
        return f"SLURM's controller does not answer: SLURM_CONF is {configuration!r}, and there is no such file"
    try:
        answer = run(["squeue", "--noheader", "--me"], timeout=limit_s)
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace") if isinstance(late.stderr, bytes) else late.stderr
        return f"SLURM's controller does not answer within {limit_s:g} s: {' '.join((said or 'squeue says nothing').split())}"
    except OSError as error:
        return f"squeue cannot be started: {error}"
    if answer.returncode != 0:
        return f"SLURM's controller does not answer: {' '.join(answer.stderr.split()) or answer.returncode}"
    return None


class SlurmSpawner(Spawner):
    """Starts the worker's program as a step of SLURM.

    Args:
        resources: What each worker needs.
        relay: For workers on other hosts.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """

    queues = True

    def __init__(self, resources: Resources, relay: Relay) -> None:
        self._relay = relay
        self._command = [*srun_command(resources, os.environ), *program_command()]

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Starts srun for a worker.

        Raises:
            WorkerStartError: The system refuses, or the relay does not start.
        """
        environment = step_environment(
            {
                **worker_environment(order),
                **self._relay.environment(order),
                "PYMPIPOOL_CWD": order.cwd or os.getcwd(),  # srun only warns where there is no such folder
            }
        )
        name = f"pympipool-{order.number}-{secrets.token_hex(4)}"
        command = [*_ends_with_parent(), *self._command]
        place = command.index("srun") + 1
        return SrunProcess([*command[:place], f"--job-name={name}", *command[place:]], environment, order.cwd, name)

    def close(self) -> None:
        """Ends the relay."""
        self._relay.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of the relay."""
        self._relay.after_fork_in_child()


def srun_command(resources: Resources, environ: Mapping[str, str]) -> list[str]:
    """The srun and its options for workers that need this.

    Args:
        resources: What each worker needs.
        environ: The environment of the script: says whether it runs inside a job.

    Examples:
        >>> srun_command(Resources(threads_per_core=2), {})[:4]
        ['srun', '--quiet', '--ntasks=1', '--cpus-per-task=2']
    """
    ranks = resources.cores
    command = ["srun", "--quiet", f"--ntasks={ranks}", f"--cpus-per-task={resources.threads_per_core}"]
    command += ["--kill-on-bad-exit=1", "--input=none", f"--mpi={_mpi_plugin(resources)}"]
    in_job = "SLURM_JOB_ID" in environ
    if ranks == 1:
        command.append("--nodes=1")
    if in_job:
        command.append("--exact")
    if resources.gpus_per_core:
        command.append(f"--gpus-per-task={resources.gpus_per_core}")
    elif in_job:
        command.append("--gres=none")  # or the step would take all that the job has
    if resources.oversubscribe:
        command.append("--overcommit")
    if resources.cwd is not None:
        command.append(f"--chdir={resources.cwd}")
    return [*command, *resources.command_line_argument_lst]


def _mpi_plugin(resources: Resources) -> str:
    if resources.pmi_mode is not None:
        return resources.pmi_mode
    return "none" if resources.cores == 1 else _MPI_PLUGINS[loaded_library().kind]


def step_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of an srun, without what would make it treat a worker like the whole job.

    srun hands its own environment on to the step, unless the job was submitted with --export=NONE: that must not keep
    the worker from getting its orders.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_INHERITED) and name not in _INHERITED_WHOLE
    }
    per_node = environment.get("SLURM_MEM_PER_NODE", "")
    cores = environment.get("SLURM_CPUS_ON_NODE", "")
    if per_node.isdigit() and cores.isdigit() and int(per_node) > 0 < int(cores):
        # Each step would take the job's whole memory of a node, and the next would have to wait for it.
        del kept["SLURM_MEM_PER_NODE"]
        kept["SLURM_MEM_PER_CPU"] = str(int(per_node) // int(cores) or 1)
    return kept


@functools.cache
def _ends_with_parent() -> Sequence[str]:
    """What ends an srun that waits in the queue when the master is killed; nothing where util-linux is too old."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    command = (setpriv, "--pdeathsig", "TERM")
    tried = run([*command, "true"])
    return command if tried.returncode == 0 else ()


class SrunProcess(ChildProcess):
    """An srun and its step."""

    last_words_s = LAST_WORDS_S
    noisy_exit = True

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None, name: str) -> None:
        super().__init__(command, environment, cwd)
        self._name = name
        self._job = environment.get("SLURM_JOB_ID")
        self._last_resort: threading.Timer | None = None

    def refused(self, last_stderr: Iterable[str]) -> bool:
        """Whether SLURM says that there can be no such step, and not that it is busy."""
        errors = [line for line in last_stderr if line.startswith("srun: error: Unable to")]
        return any(not any(word in line for word in _BUSY) for line in errors)

    def kill(self) -> None:
        """Has srun end its step; if it does not, cancels the step and kills srun."""
        if self.poll() is not None:
            super().kill()
            return
        if self._last_resort is not None:
            return  # it is under way
        self.terminate()
        self._signal_group(signal.SIGCONT)  # a stopped srun would not notice
        self._last_resort = threading.Timer(TIDY_UP_S, self._kill_by_force)
        self._last_resort.daemon = True
        try:
            self._last_resort.start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            super().kill()

    def kill_unreachable(self) -> None:
        """Kills srun, which would wait for an answer for a minute, and has its step cancelled meanwhile."""
        super().kill()
        try:
            threading.Thread(target=cancel, args=(self._name, self._job), daemon=True).start()
        except RuntimeError:  # this interpreter is ending, and starts no more threads
            pass

    def _kill_by_force(self) -> None:
        super().kill()
        cancel(self._name, self._job)

    def close(self) -> None:
        """Gives back what the system keeps of srun."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        super().close()


def cancel(name: str, job: str | None) -> None:
    """Cancels the step of this name in a job, or without one the jobs of this name; what cannot be reached is left."""
    try:
        if job is None:
            _ask("scancel", "--quiet", f"--name={name}")
            return
        for line in _ask("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j").splitlines():
            step, _, its_name = line.strip().partition(" ")
            if its_name == name:
                _ask("scancel", "--quiet", step)
    except (OSError, subprocess.SubprocessError):
        pass  # the controller does not answer: the worker ends by itself, as it has lost its master


def _ask(*command: str) -> str:
    return run(command, timeout=CONTROLLER_LIMIT_S).stdout


def check_slurm() -> None:
    """Raises what keeps SLURM from being used.

    Raises:
        WorkerStartError: says why, and what to do.
    """
    lately = _remembered()
    if lately and lately.problem is None:
        return
    problem = why_no_slurm()  # who names SLURM wants it to be tried, whatever was the matter before
    if problem is not None:
        raise WorkerStartError(f"backend 'slurm' cannot be used: {problem}; {REMEDY}")
