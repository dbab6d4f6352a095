"""Measure how long calls take with block allocation, without it, with `map` and with MPI.

Each measurement has a time budget, so that a machine that is a hundred times slower than another does not take a
hundred times longer. Times are in seconds.
"""

from __future__ import annotations

import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pympipool._util.platform import load_averages
from pympipool.errors import WorkerStartError
from pympipool.executor import Executor
from pympipool.worker import probes

Progress = Callable[[str], None]
"""Called with a description of each activity."""

BUDGET_S = 0.8
"""Time budget of one measurement, once the workers have started."""

START_TIMEOUT_S = 60.0
"""Maximum time from the start of the first worker to the start of the last one."""

CALLS_MAX = 20_000
"""Maximum number of calls of one measurement."""

CHUNKSIZE = 1000
"""Chunksize of `map` over calls that do nothing, to compare with `map` without a chunksize."""

LENGTHS_S = (1e-4, 1e-3, 1e-2, 1e-1)
"""Lengths of calls for which the efficiency is measured."""

SIZES_BYTES = (8_000, 800_000, 8_000_000, 64_000_000)
"""Sizes of values that are sent to a worker and back."""


@dataclass
class Length:
    """The share of the time of all cores that is spent inside of calls of one length, 0 to 1.

    Attributes:
        call_s: Length of the calls.
        mapped: Share with `map`, block allocation and no chunksize.
        block: Share with `submit` and block allocation.
        alone: Share with `submit` and a process for each call.
    """

    call_s: float
    mapped: float = 0.0
    block: float = 0.0
    alone: float = 0.0


@dataclass
class MpiRanks:
    """Times of functions of several ranks.

    Attributes:
        ranks: Number of ranks.
        trip_s: Median round trip of a call that does nothing, with block allocation.
        alone_s: Median round trip without block allocation, when each call starts MPI.
    """

    ranks: int
    trip_s: float
    alone_s: float


@dataclass
class Measured:
    """All measurements.

    Attributes:
        backend: Backend that was used.
        host: Host of the master.
        cores: Number of cores that were used.
        load: Load of the machine before the measurement, averaged over a minute; 0 if the workers run on other
            machines.
        first_s: Time from creating an executor of one worker to its first result, with block allocation.
        all_s: Time from creating an executor with a worker on each core until all workers have answered.
        trip_s: Median round trip of a call that does nothing, with one worker.
        trip_p99_s: 99th percentile of that round trip.
        alone_s: Median round trip of a call that does nothing, with a process of its own for each call.
        rates: By number of workers: calls that do nothing, per second, all submitted before the first result is taken.
        map_rate: Calls that do nothing, per second, with `map` on all cores and no chunksize.
        chunked_rate: Calls that do nothing, per second, with `map` on all cores and `CHUNKSIZE`.
        lengths: Efficiency for calls of several lengths.
        speed_ups: By number of workers: speed relative to one worker, for calls of a fixed amount of work.
        kind: Type of the values that were sent.
        echoes_s: By size in bytes: time to send a value to a worker and back.
        mpi: Times of functions of several ranks.
        no_mpi: Reason why functions of several ranks were not measured, or not with more ranks.
    """

    backend: str
    host: str
    cores: int
    load: float = 0.0
    first_s: float = 0.0
    all_s: float = 0.0
    trip_s: float = 0.0
    trip_p99_s: float = 0.0
    alone_s: float = 0.0
    rates: dict[int, float] = field(default_factory=dict)
    map_rate: float = 0.0
    chunked_rate: float = 0.0
    lengths: list[Length] = field(default_factory=list)
    speed_ups: dict[int, float] = field(default_factory=dict)
    kind: str = "bytes"
    echoes_s: dict[int, float] = field(default_factory=dict)
    mpi: list[MpiRanks] = field(default_factory=list)
    no_mpi: str = ""


def measure(backend: str, cores: int | None, show: Progress = lambda _: None) -> Measured:
    """Measure everything. This takes about a minute, or longer with a scheduler that is slow to start processes.

    Args:
        backend: As for an Executor.
        cores: Number of cores to use; None for all.
        show: Called with a description of each activity.

    Raises:
        ValueError, TypeError: The backend or the cores are wrong.
        BrokenExecutor: No workers could be started.
    """
    show("starting workers")
    load, start = load_averages()[0], time.perf_counter()
    with Executor(max_cores=cores, backend=backend, block_allocation=True) as exe:
        info = exe.info
        measured = Measured(info["backend"], platform.node(), info["max_cores"])
        measured.load = load if measured.backend == "mpi" else 0.0
        _wait_for_all(exe, measured.cores)
        measured.all_s = time.perf_counter() - start
        measured.lengths = [Length(call_s) for call_s in LENGTHS_S]
        _measure_block(exe, measured, show)
    _measure_one_worker(measured, show)
    _measure_alone(measured, show)
    _measure_mpi(measured, show)
    return measured


# ---- with block allocation ----


def _measure_block(exe: Executor, measured: Measured, show: Progress) -> None:
    show("calls that do nothing")
    measured.rates[measured.cores] = _submit_rate(exe)
    measured.map_rate = _map_rate(exe, None)
    measured.chunked_rate = _map_rate(exe, CHUNKSIZE)
    for length in measured.lengths:
        show(f"calls of {length.call_s:g} s with block allocation")
        length.block = _efficiency(exe, measured.cores, length.call_s, _run_submitted)
        length.mapped = _efficiency(exe, measured.cores, length.call_s, _run_mapped)
    work_rates = {}
    for workers in _worker_counts(measured.cores):
        show(f"the same work with {workers} workers")
        work_rates[workers] = _work_rate(exe, workers)
    measured.speed_ups = {workers: rate / work_rates[1] for workers, rate in work_rates.items()}


def _measure_one_worker(measured: Measured, show: Progress) -> None:
    show("one worker")
    start = time.perf_counter()
    with Executor(max_workers=1, backend=measured.backend, block_allocation=True) as exe:
        exe.submit(probes.noop, 1).result()
        measured.first_s = time.perf_counter() - start
        times = _trip_times(exe)
        measured.trip_s, measured.trip_p99_s = statistics.median(times), times[int(0.99 * len(times))]
        measured.rates[1] = _submit_rate(exe)
        measured.kind = "float64 arrays" if _numpy() else "bytes"
        for size_bytes in SIZES_BYTES:
            show(f"values of {size_bytes} bytes")
            measured.echoes_s[size_bytes] = _echo(exe, size_bytes)


def _wait_for_all(exe: Executor, workers: int) -> None:
    """Wait until each worker has answered. The first one may wait in a scheduler's queue, for any time.

    Raises:
        WorkerStartError: The other workers have not started `START_TIMEOUT_S` later.
    """
    seen = {exe.submit(probes.host_and_pid).result()}
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while len(seen) < workers:
        if time.monotonic() > deadline_s:
            raise WorkerStartError(
                f"{len(seen)} of {workers} workers have started, the others not even {START_TIMEOUT_S:g} s later: they wait for"
                f" cores that are in use or do not exist; --cores {len(seen)} measures the workers that have started"
            )
        futures = [exe.submit(probes.host_and_pid, 0.005) for _ in range(2 * workers)]
        seen.update(future.result() for future in futures)


def _worker_counts(cores: int) -> Iterator[int]:
    """Yield 1, 2, 4 ... and all cores."""
    workers = 1
    while workers < cores:
        yield workers
        workers *= 2
    yield cores


def _work_rate(exe: Executor, workers: int) -> float:
    """Return the number of calls of a fixed amount of work per second, with a number of them at a time."""
    done: list[int] = []
    end_s = time.perf_counter() + BUDGET_S
    stopped = threading.Event()

    def run_calls() -> None:
        while True:  # at least one call: a thread may start late
            exe.submit(probes.count_down, probes.STEPS).result()
            done.append(1)
            if time.perf_counter() > end_s or stopped.is_set():
                return

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for ended in [threads.submit(run_calls) for _ in range(workers)]:
                ended.result()
        finally:
            stopped.set()  # so that Ctrl-C does not wait for the other threads
    return len(done) / (time.perf_counter() - start)


# ---- without block allocation ----


def _measure_alone(measured: Measured, show: Progress) -> None:
    show("a process for each call")
    with Executor(max_cores=measured.cores, backend=measured.backend) as exe:
        measured.alone_s = statistics.median(_trip_times(exe, trial=3))
        for length in measured.lengths:
            show(f"calls of {length.call_s:g} s with a process each")
            length.alone = _efficiency(exe, measured.cores, length.call_s, _run_submitted)


# ---- MPI ----


def _measure_mpi(measured: Measured, show: Progress) -> None:
    if measured.cores < 2:
        measured.no_mpi = "functions of several ranks need two cores"
        return
    for ranks in sorted({2, measured.cores}):
        show(f"functions of {ranks} MPI ranks")
        try:
            measured.mpi.append(
                MpiRanks(ranks, *(_mpi_trip(measured.backend, ranks, block) for block in (True, False)))
            )
        except BrokenExecutor as error:
            measured.no_mpi = str(error)
            return


def _mpi_trip(backend: str, ranks: int, block: bool) -> float:
    with Executor(max_workers=1, cores_per_worker=ranks, backend=backend, block_allocation=block) as exe:
        return statistics.median(_trip_times(exe, trial=3))


# ---- tools ----


def _affordable(run: Callable[[int], object], trial: int, maximum: int = CALLS_MAX) -> int:
    """Return the number of calls that fit into the budget, by a trial that also warms up."""
    start = time.perf_counter()
    run(trial)
    taken_s = time.perf_counter() - start
    return max(min(maximum, int(BUDGET_S / taken_s * trial)), 3)


def _trip_times(exe: Executor, trial: int = 20) -> list[float]:
    """Return the sorted round trip times of calls that do nothing."""

    def run(count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            exe.submit(probes.noop, 1).result()
            times.append(time.perf_counter() - start)
        return sorted(times)

    return run(_affordable(run, trial))


def _submit_rate(exe: Executor) -> float:
    def run(count: int) -> float:
        start = time.perf_counter()
        for future in [exe.submit(probes.noop, 1) for _ in range(count)]:
            future.result()
        return count / (time.perf_counter() - start)

    return run(_affordable(run, trial=100))


def _map_rate(exe: Executor, chunksize: int | None) -> float:
    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in exe.map(probes.noop, range(count), chunksize=chunksize):
            pass
        return count / (time.perf_counter() - start)

    return run(_affordable(run, trial=5 * CHUNKSIZE, maximum=50 * CALLS_MAX))


def _run_submitted(exe: Executor, call_s: float, count: int) -> float:
    futures: list[Any] = [exe.submit(probes.spin, call_s) for _ in range(count)]
    return float(sum(future.result() for future in futures))


def _run_mapped(exe: Executor, call_s: float, count: int) -> float:
    return sum(exe.map(probes.spin, [call_s] * count))


def _efficiency(exe: Executor, cores: int, call_s: float, run_calls: Callable[[Executor, float, int], float]) -> float:
    """Return the time spent inside the calls, measured there, as a share of wall time × cores.

    All cores get the same number of calls.
    """

    def run(rounds: int) -> float:
        start = time.perf_counter()
        inside_s = run_calls(exe, call_s, rounds * cores)
        return inside_s / (time.perf_counter() - start) / cores

    return run(_affordable(run, trial=1))


def _numpy() -> Any:
    """Return numpy, or None if it cannot be imported."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _echo(exe: Executor, size_bytes: int) -> float:
    """Return the median time to send a value to the worker and back."""
    numpy = _numpy()
    value: Any = numpy.ones(size_bytes // 8) if numpy else bytes(size_bytes)

    def run(count: int) -> float:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            exe.submit(probes.noop, value).result()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return run(_affordable(run, trial=3, maximum=1000))
