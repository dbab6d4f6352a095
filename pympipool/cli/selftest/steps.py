"""The steps of a self-test: each starts an executor, tries one thing, and returns what it saw as text.

A step fails with the exception that a user would get, or with `CheckFailed` if something is not as promised. It raises
`Unavailable` if something that it needs is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pympipool._util.platform import MPI_PACKAGE, SIGKILL
from pympipool.errors import WorkerDied
from pympipool.worker import probes

if TYPE_CHECKING:
    from pympipool.executor import Executor

MEGABYTES = 64
"""Size of the large data: more than fits into any buffer on its way."""

CALLS = 1000
"""Number of short calls."""

RUN_TIME_MAX_S = 1.0
"""Value of run_time_max for the call that never returns."""

START_DELAY_S = 0.1
"""Duration of a call, so that the other workers can start meanwhile."""


class Outcome(Enum):
    """The outcome of a step."""

    WORKS = "works"
    FAILS = "fails"
    SKIPPED = "skipped"


class CheckFailed(Exception):
    """Something is not as promised."""


class Unavailable(Exception):
    """Something that this step needs is not installed or not there. The message says how to get it."""


@dataclass(frozen=True)
class Target:
    """The backend and cores on which a step is tried.

    Attributes:
        backend: Name of the backend.
        cores: Number of cores to use.
        report_activity: Called with a description of each activity, for the message of a timeout.
    """

    backend: str
    cores: int
    report_activity: Callable[[str], None]

    def executor(self, **parameters: Any) -> Executor:
        """Return an executor on the target, with one worker unless the parameters say otherwise."""
        from pympipool.executor import Executor  # needs the compiled part; the step reports if that is missing

        if "max_cores" not in parameters:
            parameters.setdefault("max_workers", 1)
        self.report_activity("starting a worker" if parameters.get("block_allocation") else "making an executor")
        return Executor(backend=self.backend, **parameters)


@dataclass(frozen=True)
class Step:
    """One thing to try.

    Attributes:
        name: Name on the command line.
        title: Name in the output.
        attempt: Tries it, and returns what was seen as text.
        remedy: What to do if it fails and the error itself does not say.
        is_for: Returns True if there is anything to try on a backend.
    """

    name: str
    title: str
    attempt: Callable[[Target], str]
    remedy: str = "please report it, with what `pympipool info` prints"
    is_for: Callable[[str], bool] = lambda _: True


def _serial(target: Target) -> str:
    start = time.perf_counter()
    with target.executor(block_allocation=True) as exe:
        host, pid = exe.submit(probes.host_and_pid).result()
        first_s = time.perf_counter() - start
        _expect(pid != os.getpid(), "the call ran in the script's own process")
        target.report_activity("sending a function that cannot be imported")
        _expect(exe.submit(lambda x: x + first_s, 1).result() == 1 + first_s, "a lambda returned something else")
        target.report_activity("sending short calls")
        begin = time.perf_counter()
        for _ in range(CALLS):
            exe.submit(probes.noop).result()
        each_us = (time.perf_counter() - begin) / CALLS * 1e6
        begin = time.perf_counter()
        wait([exe.submit(probes.noop) for _ in range(CALLS)])
        rate = CALLS / (time.perf_counter() - begin)
    return f"first result from {host} after {first_s:.2f} s, then {each_us:.0f} µs each; {rate:.0f} calls/s together"


def _one_process_per_call(target: Target) -> str:
    start = time.perf_counter()
    with target.executor() as exe:
        target.report_activity("waiting for the first result")
        workers = {exe.submit(probes.host_and_pid).result() for _ in range(3)}
    _expect(len(workers) == 3, f"three calls ran in {len(workers)} processes")
    return f"three calls, one after the other, in {time.perf_counter() - start:.2f} s"


def _all_cores(target: Target) -> str:
    start = time.perf_counter()
    with target.executor(max_workers=target.cores, block_allocation=True) as exe:
        seen: set[tuple[str, int]] = set()
        while len(seen) < target.cores:
            target.report_activity(f"starting {target.cores} workers; {len(seen)} run")
            seen |= set(exe.map(probes.host_and_pid, [START_DELAY_S] * target.cores, chunksize=1))
    elapsed_s = time.perf_counter() - start
    return f"{target.cores} workers at a time on {_hosts(host for host, _ in seen)}, after {elapsed_s:.2f} s"


def _exception(target: Target) -> str:
    with target.executor(block_allocation=True) as exe:
        error = exe.submit(probes.raise_lookup_error, "as intended").exception()
        _expect(isinstance(error, LookupError) and error.args == ("as intended",), f"what arrived is {error!r}")
        _expect("probes.py" in str(getattr(error, "__cause__", "")), "the traceback of the worker is missing")
        _expect(exe.submit(pow, 2, 5).result() == 32, "the worker does not work after it")
    return "it arrives with its type and the worker's traceback"


def _data(target: Target) -> str:
    data = os.urandom(1 << 20) * MEGABYTES
    with target.executor(block_allocation=True) as exe:
        exe.submit(probes.noop).result()
        target.report_activity(f"sending {MEGABYTES} MB there and back")
        start = time.perf_counter()
        back = exe.submit(probes.reverse, data).result()
        elapsed_s = time.perf_counter() - start
    _expect(back == data[::-1], "what came back is not what was sent")
    return f"{MEGABYTES} MB there and back, unchanged, in {elapsed_s:.2f} s"


def _numpy(target: Target) -> str:
    if importlib.util.find_spec("numpy") is None:
        raise Unavailable("numpy is not installed: pip install numpy")
    import numpy as np

    array = np.arange(MEGABYTES << 17, dtype=np.float64)
    with target.executor(block_allocation=True) as exe:
        exe.submit(probes.noop).result()
        target.report_activity(f"sending an array of {MEGABYTES} MB there and back")
        start = time.perf_counter()
        back = exe.submit(probes.add_one, array).result()
        elapsed_s = time.perf_counter() - start
    _expect(back[-1] == array[-1] + 1 and bool((back - array == 1).all()), "what came back is not what was computed")
    _expect(back.flags.writeable, "the array that came back cannot be written")
    return f"an array of {MEGABYTES} MB there and back, writable, in {elapsed_s:.2f} s"


def _mpi(target: Target) -> str:
    if importlib.util.find_spec("mpi4py") is None:
        raise Unavailable(
            f"mpi4py is not installed: `pip install mpi4py {MPI_PACKAGE}` brings it with an MPI library; on a cluster with an MPI"
            " of its own, load that and `pip install mpi4py`"
        )
    start = time.perf_counter()
    oversubscribe = target.cores < 2
    if oversubscribe and target.backend == "flux":
        raise Unavailable(
            "flux gives each of two ranks a core of its own, and there is one: --cores 2, in an instance that has them"
        )
    with target.executor(max_cores=2, cores_per_worker=2, block_allocation=True, oversubscribe=oversubscribe) as exe:
        target.report_activity("starting two MPI ranks")
        results: Any = exe.submit(probes.rank_and_host).result()
    elapsed_s = time.perf_counter() - start
    _expect([result[:3] for result in results] == [(0, 2, 3), (1, 2, 3)], f"the ranks returned {results!r}")
    return f"allreduce over 2 ranks on {_hosts(result[3] for result in results)}, after {elapsed_s:.2f} s"


def _init_function(target: Target) -> str:
    with target.executor(block_allocation=True, init_function=probes.initialize) as exe:
        function: Callable[..., int] = probes.add_loaded  # init_function gives one of its two parameters
        result = exe.submit(function, 2).result()
    _expect(result == 42, f"the call returned {result!r} instead of 42")
    return "its return value gives the parameters of the same names"


def _death(target: Target) -> str:
    with target.executor(block_allocation=True) as exe:
        before = exe.submit(probes.host_and_pid).result()
        target.report_activity("waiting for the error of a call that killed its worker")
        error = exe.submit(probes.kill_worker).exception()
        _expect(isinstance(error, WorkerDied), f"the call that killed its worker ended with {error!r}")
        target.report_activity("waiting for the new worker")
        start = time.perf_counter()
        after = exe.submit(probes.host_and_pid).result()
    _expect(before != after, "the worker that was killed still answers")
    return f"its call fails with WorkerDied, and a new worker answers after {time.perf_counter() - start:.2f} s"


def _run_time_max(target: Target) -> str:
    with target.executor(block_allocation=True, run_time_max=RUN_TIME_MAX_S) as exe:
        exe.submit(probes.noop).result()
        target.report_activity(f"waiting for the end of a call that may run for {RUN_TIME_MAX_S:g} s")
        start = time.perf_counter()
        error = exe.submit(probes.spin_forever).exception()
        elapsed_s = time.perf_counter() - start
        _expect(isinstance(error, TimeoutError), f"the call that does not end ended with {error!r}")
        _expect(exe.submit(pow, 2, 5).result() == 32, "the executor does not work after it")
    return f"a call that never returns fails with TimeoutError after {elapsed_s:.2f} s"


def _gpus(target: Target) -> str:
    with target.executor(gpus_per_worker=1, block_allocation=True) as exe:
        names = exe.submit(probes.visible_gpus).result()
    _expect(len(names.split(",")) == 1 and names != "", f"a worker with one GPU sees {names or 'none'}")
    return f"a worker with gpus_per_worker=1 sees one: {names}"


def _has_gpus(backend: str) -> bool:
    from pympipool.backends.flux.availability import size_of_instance
    from pympipool.resources import available_devices

    if backend == "flux":
        return size_of_instance().gpus > 0
    if backend == "slurm":
        return bool(os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_GPUS_ON_NODE"))
    return bool(available_devices().names)


def _ends(target: Target) -> str:
    """Start calls that never end.

    Then the script kills itself, and the supervisor checks that nothing is left behind.
    """
    exe = target.executor(max_workers=min(target.cores, 2), block_allocation=True)
    exe.submit(probes.host_and_pid).result()
    for _ in range(4):
        exe.submit(probes.spin_forever)
    target.report_activity("being killed")
    return "the script was killed during its calls, and its workers ended at once"


def kill_this_script() -> None:
    """Kill this script: the end of the step "end"."""
    os.kill(os.getpid(), SIGKILL)


STEPS = (
    Step("serial", "a serial call", _serial, "see what `pympipool info` finds wrong here"),
    Step("single", "a process for each call", _one_process_per_call),
    Step("cores", "workers on all cores", _all_cores, "see the limits in `pympipool info`, or use fewer: --cores"),
    Step("exception", "an exception", _exception),
    Step("data", "large data", _data, "see the limits of memory in `pympipool info`"),
    Step("numpy", "a numpy array", _numpy, "see the limits of memory in `pympipool info`"),
    Step("init", "init_function", _init_function),
    Step(
        "mpi", "an MPI function", _mpi, "see mpi4py, library and mpiexec in `pympipool info`: they must belong together"
    ),
    Step("gpus", "a GPU for a worker", _gpus, "see the GPUs in `pympipool info`", is_for=_has_gpus),
    Step("death", "a worker's death", _death),
    Step("time", "run_time_max", _run_time_max),
    Step("end", "the script's death", _ends, "end what is left by its process id (ps), and please report it"),
)
"""All steps in the order in which they are tried. A step comes after the steps that it depends on."""


def _expect(condition: bool, failure: str) -> None:
    if not condition:
        raise CheckFailed(failure)


def _hosts(hosts: Iterable[str]) -> str:
    return ", ".join(sorted(set(hosts)))
