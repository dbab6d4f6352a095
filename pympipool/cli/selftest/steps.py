"""The steps of a self-test: each starts an executor, has it do one thing, and says in words what it saw.

What is not as promised is raised: as the exception that a user would get, as `CheckFailed`, or, where something is not
installed that this step needs, as `Unavailable`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerDied
from pympipool.worker import probes

if TYPE_CHECKING:
    from pympipool.executor import Executor

MEGABYTES = 64
"""Size of the large data: more than fits into any buffer on the way."""

CALLS = 1000

RUN_TIME_MAX_S = 1.0

WHILE_OTHERS_START_S = 0.1


class CheckFailed(Exception):
    """Something went otherwise than promised."""


class Unavailable(Exception):
    """What this step needs is not installed, or not there; says how to get it."""


@dataclass(frozen=True)
class Target:
    """Where a step is tried.

    Attributes:
        backend: Its name.
        cores: How many to use.
        doing: To be told what is being done, for when it does not end.
    """

    backend: str
    cores: int
    doing: Callable[[str], None]

    def executor(self, **parameters: Any) -> Executor:
        """An executor of one worker there, or what the parameters say."""
        from pympipool.executor import Executor  # it needs the compiled part, whose absence is for the step to report

        if "max_cores" not in parameters:
            parameters.setdefault("max_workers", 1)
        self.doing("starting a worker" if parameters.get("block_allocation") else "making an executor")
        return Executor(backend=self.backend, **parameters)


@dataclass(frozen=True)
class Step:
    """One thing to try.

    Attributes:
        name: A word for it.
        title: What is tried.
        attempt: Tries it; returns what was seen, in words.
        remedy: What to do when it fails, where the error itself does not say.
        is_for: Whether there is anything to try on this backend.
    """

    name: str
    title: str
    attempt: Callable[[Target], str]
    remedy: str = "please report it, with what `pympipool info` prints"
    is_for: Callable[[str], bool] = lambda _: True


def _serial(place: Target) -> str:
    start = time.perf_counter()
    with place.executor(block_allocation=True) as exe:
        host, pid = exe.submit(probes.host_and_pid).result()
        first_s = time.perf_counter() - start
        _expect(pid != os.getpid(), "the call ran in the script's own process")
        place.doing("sending a function that cannot be imported")
        _expect(exe.submit(lambda x: x + first_s, 1).result() == 1 + first_s, "a lambda returned something else")
        place.doing("sending short calls")
        begin = time.perf_counter()
        for _ in range(CALLS):
            exe.submit(probes.noop).result()
        each_us = (time.perf_counter() - begin) / CALLS * 1e6
        begin = time.perf_counter()
        wait([exe.submit(probes.noop) for _ in range(CALLS)])
        rate = CALLS / (time.perf_counter() - begin)
    return f"first result from {host} after {first_s:.2f} s, then {each_us:.0f} µs each; {rate:.0f} calls/s together"


def _one_process_per_call(place: Target) -> str:
    start = time.perf_counter()
    with place.executor() as exe:
        place.doing("waiting for the first result")
        places = {exe.submit(probes.host_and_pid).result() for _ in range(3)}
    _expect(len(places) == 3, f"three calls ran in {len(places)} processes")
    return f"three calls, one after the other, in {time.perf_counter() - start:.2f} s"


def _all_cores(place: Target) -> str:
    start = time.perf_counter()
    with place.executor(max_workers=place.cores, block_allocation=True) as exe:
        seen: set[tuple[str, int]] = set()
        while len(seen) < place.cores:
            place.doing(f"starting {place.cores} workers; {len(seen)} run")
            seen |= set(exe.map(probes.host_and_pid, [WHILE_OTHERS_START_S] * place.cores, chunksize=1))
    elapsed_s = time.perf_counter() - start
    return f"{place.cores} workers at a time on {_hosts(host for host, _ in seen)}, after {elapsed_s:.2f} s"


def _exception(place: Target) -> str:
    with place.executor(block_allocation=True) as exe:
        error = exe.submit(probes.raise_lookup_error, "as wanted").exception()
        _expect(isinstance(error, LookupError) and error.args == ("as wanted",), f"what arrived is {error!r}")
        _expect("probes.py" in str(getattr(error, "__cause__", "")), "the traceback of the worker is missing")
        _expect(exe.submit(pow, 2, 5).result() == 32, "the worker is of no use after it")
    return "it arrives with its type and the worker's traceback"


def _data(place: Target) -> str:
    data = os.urandom(1 << 20) * MEGABYTES
    with place.executor(block_allocation=True) as exe:
        exe.submit(probes.noop).result()
        place.doing(f"sending {MEGABYTES} MB there and back")
        start = time.perf_counter()
        back = exe.submit(probes.reverse, data).result()
        elapsed_s = time.perf_counter() - start
    _expect(back == data[::-1], "what came back is not what was sent")
    return f"{MEGABYTES} MB there and back unharmed, in {elapsed_s:.2f} s"


def _numpy(place: Target) -> str:
    try:
        import numpy as np
    except ImportError as error:
        raise Unavailable(f"numpy cannot be imported ({error}): pip install numpy") from None
    array = np.arange(MEGABYTES << 17, dtype=np.float64)
    with place.executor(block_allocation=True) as exe:
        exe.submit(probes.noop).result()
        place.doing(f"sending an array of {MEGABYTES} MB there and back")
        start = time.perf_counter()
        back = exe.submit(probes.add_one, array).result()
        elapsed_s = time.perf_counter() - start
    _expect(back[-1] == array[-1] + 1 and bool((back - array == 1).all()), "what came back is not what was computed")
    _expect(back.flags.writeable, "the array that came back cannot be written")
    return f"an array of {MEGABYTES} MB there and back, writable, in {elapsed_s:.2f} s"


def _mpi(place: Target) -> str:
    if importlib.util.find_spec("mpi4py") is None:
        raise Unavailable(
            'mpi4py is not installed: pip install "pympipool[mpich]" brings it with an MPI library; on a cluster with an MPI'
            ' of its own, load that and pip install "pympipool[mpi]"'
        )
    start = time.perf_counter()
    crowded = place.cores < 2
    if crowded and place.backend == "flux":
        raise Unavailable(
            "flux gives each of two ranks a core of its own, and there is one: --cores 2, in an instance that has them"
        )
    with place.executor(max_cores=2, cores_per_worker=2, block_allocation=True, oversubscribe=crowded) as exe:
        place.doing("starting two MPI ranks")
        results: Any = exe.submit(probes.rank_and_host).result()
    elapsed_s = time.perf_counter() - start
    _expect([result[:3] for result in results] == [(0, 2, 3), (1, 2, 3)], f"the ranks returned {results!r}")
    return f"allreduce over 2 ranks on {_hosts(result[3] for result in results)}, after {elapsed_s:.2f} s"


def _init_function(place: Target) -> str:
    with place.executor(block_allocation=True, init_function=probes.initialize) as exe:
        function: Callable[..., int] = probes.add_loaded  # of its two parameters one is filled in the worker
        result = exe.submit(function, 2).result()
    _expect(result == 42, f"the call returned {result!r} instead of 42")
    return "what it returns fills the parameters of that name"


def _death(place: Target) -> str:
    with place.executor(block_allocation=True) as exe:
        before = exe.submit(probes.host_and_pid).result()
        place.doing("waiting for the error of a call that killed its worker")
        error = exe.submit(probes.kill_worker).exception()
        _expect(isinstance(error, WorkerDied), f"the call that killed its worker ended with {error!r}")
        place.doing("waiting for the worker in its place")
        start = time.perf_counter()
        after = exe.submit(probes.host_and_pid).result()
    _expect(before != after, "the worker that was killed answers")
    return f"its call fails with WorkerDied, and another worker is there after {time.perf_counter() - start:.2f} s"


def _run_time_max(place: Target) -> str:
    with place.executor(block_allocation=True, run_time_max=RUN_TIME_MAX_S) as exe:
        exe.submit(probes.noop).result()
        place.doing(f"waiting for the end of a call that may run for {RUN_TIME_MAX_S:g} s")
        start = time.perf_counter()
        error = exe.submit(probes.spin_forever).exception()
        elapsed_s = time.perf_counter() - start
        _expect(isinstance(error, TimeoutError), f"the call that does not end ended with {error!r}")
        _expect(exe.submit(pow, 2, 5).result() == 32, "the executor is of no use after it")
    return f"a call that never returns fails with TimeoutError after {elapsed_s:.2f} s"


def _gpus(place: Target) -> str:
    with place.executor(gpus_per_worker=1, block_allocation=True) as exe:
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


def _ends(place: Target) -> str:
    """Is killed on purpose; the supervisor sees whether anything is left."""
    exe = place.executor(max_workers=min(place.cores, 2), block_allocation=True)
    exe.submit(probes.host_and_pid).result()
    for _ in range(4):
        exe.submit(probes.spin_forever)
    place.doing("being killed")
    return "the script was killed in the middle of its calls, and its workers were gone at once"


def kill_this_script() -> None:
    """The last thing of the step "ends"."""
    os.kill(os.getpid(), signal.SIGKILL)


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
"""In the order in which they are tried: what others build on comes first."""


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise CheckFailed(otherwise)


def _hosts(hosts: Iterable[str]) -> str:
    return ", ".join(sorted(set(hosts)))
