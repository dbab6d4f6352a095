"""Workers that flux starts: a job for each, in the instance that the script runs in or can reach.

    flux-shell               on the hosts that flux chooses
      rank 0 ... rank N-1    the worker's program

A worker on the master's own host connects to his Unix socket, one on any other host to the relay; where the whole
instance is on the master's host there is no relay. No process stands for the job here: what becomes of it, and what it prints,
comes from the instance (`flux_instance.py`). When the master is killed, running workers end by themselves, and what waits in the
queue is cancelled by a guard (`flux_guard.py`).

The key is in the environment of the jobspec, which flux keeps where only the user and the owner of the instance can read it.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import secrets
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, sleep, time
from typing import Any, BinaryIO, NamedTuple, cast

from pympipool.backends.flux.connection import FluxConnection, Job
from pympipool.backends.flux.guard import JobReaper
from pympipool.backends.mpi_library import Kind, loaded_library
from pympipool.backends.program import program_command, worker_environment
from pympipool.backends.relay_process import Relay
from pympipool.backends.shm_cleanup import remove_leftovers
from pympipool.backends.spawner import LaunchRequest, Spawner, WorkerProcess
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources

BROKER_LIMIT_S = 10.0
"""How long the broker may take to answer; one that has just started does not know all of its services for a moment."""

LAST_WORDS_S = 3.0

PAUSE_S = 0.05

GET_FLUX = "flux-core brings them: conda install -c conda-forge flux-core, or spack install flux-core"

REMEDY = (
    "start the script with `flux start python script.py` (in a job of SLURM: `srun flux start python script.py`), or use"
    " backend='mpi' for this machine alone"
)

PERMANENT_FAILURES = ("submit", "alloc", "depend", "cancel", "timeout")
"""Types of exceptions that would come again, or that somebody wanted. Of the others ("exec", say) not even flux knows."""

_PMI = {Kind.HYDRA: None, Kind.OPEN_MPI: "pmix"}
"""The `pmi` option of flux's shell by which the ranks of a library find each other; None: flux's own choice."""

# ---- is flux there? ----


def why_no_flux(limit_s: float = BROKER_LIMIT_S) -> str | None:
    """Why flux cannot be used here; None when it can: its bindings can be imported, and a broker takes jobs."""
    size = _look(limit_s)
    return size if isinstance(size, str) else None


class Size(NamedTuple):
    """What a flux instance has, hosts that are down aside.

    Attributes:
        hosts: In flux's notation, as "node[1-3]".
    """

    cores: int
    gpus: int
    hosts: str


def size_of_instance() -> Size:
    """What the flux instance has that can be reached.

    Raises:
        WorkerStartError: flux cannot be used; says why, and what to do.
    """
    size = _look(BROKER_LIMIT_S)
    if isinstance(size, str):
        raise WorkerStartError(f"backend 'flux' cannot be used: {size}; {REMEDY}")
    return size


def _look(limit_s: float) -> Size | str:
    """The instance, or why flux cannot be used here."""
    return _why_no_bindings() or _ask_broker(limit_s)


def _why_no_bindings() -> str | None:
    if importlib.util.find_spec("flux") is None:
        return f"flux's Python bindings are not installed for {sys.executable}; {GET_FLUX}"
    try:
        importlib.import_module("flux.job")
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.partition(".")[0] in ("flux", "_flux"):
            return f"the module flux that {sys.executable} finds is not that of flux-core ({error}); {GET_FLUX}"
        return f"flux's Python bindings need the module {name!r}, which is not installed: pip install {name}"
    except ImportError as error:
        return f"flux's Python bindings are installed, but not the flux-core that they belong to ({error}); {GET_FLUX}"
    return None


def _ask_broker(limit_s: float) -> Size | str:
    """The instance, or why there is none; asked by a thread that can be left alone when nobody answers."""
    answers: list[Size | str] = []
    thread = threading.Thread(target=_ask, args=(answers, monotonic() + limit_s), name="flux_question", daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else f"the flux broker does not answer within {limit_s:g} s"


def _ask(answers: list[Size | str], deadline: float) -> None:
    import flux
    from flux.resource import resource_list

    try:
        handle = flux.Flux()
        _wait_for_service(handle, "job-ingest", deadline)
        _wait_for_service(handle, "job-info", deadline)
        up = resource_list(handle).get().up
        answers.append(Size(int(up.ncores), int(up.ngpus), str(up.nodelist)))
    except OSError as error:
        answers.append(f"no flux instance can be reached ({error.strerror or error})")


def _wait_for_service(handle: Any, name: str, deadline: float) -> None:
    """Waits until a broker that has just started knows this service."""
    while True:
        try:
            handle.rpc(f"{name}.ping", {"seq": 0, "pad": ""}).get()
            return
        except OSError as error:
            if error.errno != errno.ENOSYS:
                return  # it is there, and does not want to be asked
            if monotonic() + PAUSE_S > deadline:
                raise
        sleep(PAUSE_S)


def is_flux_executor(executor: Any) -> bool:
    """Whether this is a `flux.job.FluxExecutor`; does not import flux."""
    return any(
        one.__name__ == "FluxExecutor" and one.__module__.partition(".")[0] == "flux" for one in type(executor).__mro__
    )


def all_hosts_are_this_one() -> bool:
    """Whether the whole instance is one broker in this process's network: then no worker can be elsewhere."""
    import flux

    try:
        handle = flux.Flux()
        broker = handle.attr_get("broker.pid")
        return handle.attr_get("size") == "1" and os.path.samefile("/proc/self/ns/net", f"/proc/{broker}/ns/net")
    except OSError:
        return False


# ---- jobs ----


def make_jobspec(
    resources: Resources,
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str],
    cwd: str,
    pmi: str | None = None,
) -> dict[str, Any]:
    """The jobspec of a worker, version 1 (flux RFC 25).

    Args:
        resources: What it needs: a slot for each rank, with the rank's cores and GPUs.
        command: Its program.
        name: Of the job.
        environment: All of it; what is not UTF-8 is left out, since JSON has no way to say it.
        cwd: Its folder.
        pmi: How its ranks find each other; None: what flux does by itself.

    Examples:
        >>> jobspec = make_jobspec(
        ...     Resources(cores=2, threads_per_core=4), ["hostname"], name="test", environment={}, cwd="/"
        ... )
        >>> jobspec["resources"]
        [{'type': 'slot', 'count': 2, 'with': [{'type': 'core', 'count': 4}], 'label': 'task'}]
    """
    needs = [{"type": "core", "count": resources.threads_per_core}]
    # Without this its stdin would stay open, and whoever reads from it wait for ever.
    options: dict[str, Any] = {"input": {"stdin": {"type": "file", "path": os.devnull}}}
    if resources.gpus_per_core:
        needs.append({"type": "gpu", "count": resources.gpus_per_core})
        options["gpu-affinity"] = "per-task"
    if resources.cores > 1:
        options["exit-on-error"] = 1
    if pmi is not None:
        options["pmi"] = pmi
    system: dict[str, Any] = {
        "duration": 0,
        "cwd": cwd,
        "environment": {key: value for key, value in environment.items() if _is_text(key) and _is_text(value)},
        "job": {"name": name},
        "shell": {"options": options},
    }
    return {
        "version": 1,
        "resources": [{"type": "slot", "count": resources.cores, "with": needs, "label": "task"}],
        "tasks": [{"command": list(command), "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": system},
    }


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def pmi_of(resources: Resources) -> str | None:
    """How the ranks of a worker find each other: what the user says, else what the MPI library needs.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """
    if resources.pmi_mode is not None or resources.cores == 1:
        return resources.pmi_mode
    return _PMI[loaded_library().kind]


class FluxSpawner(Spawner):
    """Starts the worker's program as a job of flux.

    Args:
        resources: What each worker needs; and the FluxExecutor to submit to, or None.
        jobs: Of all spawners of one executor.
        relay: For workers on other hosts; None where there are none.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """

    queues = True

    def __init__(self, resources: Resources, jobs: FluxSession, relay: Relay | None) -> None:
        self._resources = resources
        self._jobs = jobs
        self._relay = relay
        self._command = program_command()
        self._pmi = pmi_of(resources)

    def start(self, order: LaunchRequest) -> WorkerProcess:
        """Submits the job of a worker.

        Raises:
            WorkerStartError: The instance is gone, a FluxExecutor takes no more jobs, or the relay does not start.
        """
        cwd = order.cwd or os.getcwd()
        environment = {
            **worker_environment(order),
            "PYMPIPOOL_CWD": cwd,
        }  # flux only warns where there is no such folder
        if self._relay is not None:
            environment.update(self._relay.environment(order))
        instance = self._jobs.instance(order)
        jobspec = make_jobspec(
            self._resources,
            self._command,
            name=f"{self._jobs.name}-{order.number}",
            environment=environment,
            cwd=cwd,
            pmi=self._pmi,
        )
        return FluxProcess(instance, json.dumps(jobspec), self._resources.executor, order.ranks)

    def close(self) -> None:
        """Ends the relay, the guard, and what talks with flux."""
        if self._relay is not None:
            self._relay.close()
        self._jobs.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of them."""
        if self._relay is not None:
            self._relay.after_fork_in_child()
        self._jobs.after_fork_in_child()


class FluxSession:
    """What all jobs of one executor have in common: their names' beginning, the instance, and the guard."""

    def __init__(self) -> None:
        self.name = f"pympipool-{secrets.token_hex(4)}"
        self._instance: FluxConnection | None = None
        self._guard: JobReaper | None = None

    def instance(self, order: LaunchRequest) -> FluxConnection:
        """The instance to submit to; from the first order on there is a guard."""
        if self._instance is None:
            self._guard = JobReaper(self.name, order)
            self._instance = FluxConnection()
        return self._instance

    def close(self) -> None:
        """Ends the thread and the guard; all jobs have ended."""
        if self._instance is not None:
            self._instance.close()
        if self._guard is not None:
            self._guard.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of the guard, which watches over the parent."""
        if self._guard is not None:
            self._guard.after_fork_in_child()


class FluxProcess(WorkerProcess):
    """A job of flux, as one thing that lives and ends.

    Three pipes lead from the instance's thread to the pool's: two for what the job prints, and one that ends with it.
    """

    last_words_s = LAST_WORDS_S

    def __init__(self, instance: FluxConnection, jobspec: str, executor: Any, ranks: int) -> None:
        self._has_ranks = ranks > 1
        self._started_s = time()
        self.pid = 0  # no process of this host stands for it
        self.host = socket.gethostname()
        self._exit_code: int | None = None
        self._failure: str | None = None
        self._status, self._status_end = os.pipe()
        stdout, stdout_end = os.pipe()
        stderr, stderr_end = os.pipe()
        self._ends = {"stdout": stdout_end, "stderr": stderr_end}
        self.direct_output = (stdout_end, stderr_end)  # flux keeps each line that is printed, at 2000 a second
        for descriptor in (stdout, stderr):
            os.set_blocking(descriptor, False)
        self.stdout = cast(BinaryIO, os.fdopen(stdout, "rb", buffering=0))
        self.stderr = cast(BinaryIO, os.fdopen(stderr, "rb", buffering=0))
        self._instance = instance
        try:
            self._job: Job = instance.submit(jobspec, self, executor)
        except BaseException:
            self.take_end(0, None)
            self.close()
            raise

    # ---- in the instance's thread ----

    def take_output(self, stream: str, data: bytes) -> None:
        """Passes on what the job has printed."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._ends[stream], left) :]
            except OSError:  # nobody reads any more
                return

    def take_end(self, exit_code: int, failure: str | None) -> None:
        """The job has ended."""
        self._failure = failure
        self._exit_code = exit_code
        self.direct_output = None
        for descriptor in (*self._ends.values(), self._status_end):
            os.close(descriptor)

    # ---- in the pool's ----

    def fileno(self) -> int | None:
        """Becomes readable at the end."""
        return self._status

    def poll(self) -> int | None:
        """The exit code, 128 + N for signal N; 1 for a job that never ran. None until it has ended."""
        return self._exit_code

    def refused(self, last_stderr: Iterable[str]) -> bool:
        """Whether flux says that there can be no such job, or somebody has cancelled it."""
        return self._failure in PERMANENT_FAILURES

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits for the end; the exit code, or None when the time was over before."""
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self.poll()

    def terminate(self) -> None:
        """Asks its ranks to end (SIGTERM)."""
        self._instance.signal(self._job, signal.SIGTERM)

    def kill(self) -> None:
        """Has flux cancel the job, wherever in its life it is."""
        if self._exit_code is None:
            self._instance.end(self._job)

    def close(self) -> None:
        """Gives back the descriptors."""
        os.close(self._status)
        self.stdout.close()
        self.stderr.close()
        if self._has_ranks and self._exit_code != 0:
            remove_leftovers(self._started_s)
