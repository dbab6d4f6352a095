"""What is measured: how long things take with block allocation, without it, with `map` and with MPI.

Everything has a budget of time, so that a machine that is a hundred times slower than another does not take a hundred times
longer. Times are in seconds.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pympipool.errors import WorkerStartError
from pympipool.executor import Executor
from pympipool.worker import probes

Progress = Callable[[str], None]

BUDGET_S = 0.8
"""What one figure may cost, once workers are there."""

ALL_WITHIN_S = 60.0
"""How long after the first worker the last one may come."""

CALLS_MAX = 20_000
"""Of one figure."""

CHUNKSIZE = 1000
"""Of `map` over calls that do nothing, beside `map` without a chunksize."""

LENGTHS_S = (1e-4, 1e-3, 1e-2, 1e-1)
"""Lengths of calls."""

SIZES_BYTES = (8_000, 800_000, 8_000_000, 64_000_000)
"""Sizes of values."""


@dataclass
class Length:
    """Calls of one length, on all cores: the share of the cores' time that was spent inside them, 0 to 1.

    Args:
        call_s: their length.
        mapped: with `map`, block allocation, no chunksize.
        block: with `submit` and block allocation.
        alone: with `submit` and a process for each call.
    """

    call_s: float
    mapped: float = 0.0
    block: float = 0.0
    alone: float = 0.0


@dataclass
class MpiRanks:
    """Functions of several ranks.

    Args:
        ranks: how many.
        trip_s: round trip of a call that does nothing, with block allocation; p50.
        alone_s: the same without it, when each call starts MPI.
    """

    ranks: int
    trip_s: float
    alone_s: float


@dataclass
class Measured:
    """All of it.

    Args:
        backend: that was used.
        host: of the master.
        cores: that were used.
        load: of the machine before it began, averaged over a minute; 0 where others are used.
        first_s: from nothing to the first result of one worker, with block allocation.
        all_s: the same for a worker on each core, until all have answered.
        trip_s: round trip of a call that does nothing, one worker; p50.
        trip_p99_s: the same, p99.
        alone_s: the same with a process of its own for each call; p50.
        rates: workers: calls that do nothing, per second, all submitted and then all taken.
        map_rate: the same with `map` on all cores, no chunksize.
        chunked_rate: the same with `CHUNKSIZE`.
        lengths: calls of several lengths.
        speed_ups: workers: how many times faster than one they got work done that is the same for all.
        kind: of the values that were sent.
        echoes_s: size in bytes: time of such a value to a worker and back.
        mpi: functions of several ranks.
        no_mpi: why there are none of them.
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
    """Measures everything, in about a minute; with a scheduler that is slow to start processes, more.

    Args:
        backend: as of an Executor.
        cores: to use; None: those that there are.
        show: is told what is being done.

    Raises:
        ValueError, TypeError: the backend or the cores are wrong.
        BrokenExecutor: no workers could be started.
    """
    show("starting workers")
    load, start = os.getloadavg()[0], time.perf_counter()
    with Executor(max_cores=cores, backend=backend, block_allocation=True) as exe:
        info = exe.info
        measured = Measured(info["backend"], os.uname().nodename, info["max_cores"])
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
        length.block = _efficiency(exe, measured.cores, length.call_s, _submitted)
        length.mapped = _efficiency(exe, measured.cores, length.call_s, _mapped)
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
    """Until each worker has answered. The first one may wait in a scheduler's queue, for any time.

    Raises:
        WorkerStartError: the others are not there `ALL_WITHIN_S` later.
    """
    seen = {exe.submit(probes.host_and_pid).result()}
    deadline_s = time.monotonic() + ALL_WITHIN_S
    while len(seen) < workers:
        if time.monotonic() > deadline_s:
            raise WorkerStartError(
                f"{len(seen)} of {workers} workers are there, the others not even {ALL_WITHIN_S:g} s later: they wait for cores"
                f" that others have, or that there are not; --cores {len(seen)} measures these"
            )
        futures = [exe.submit(probes.host_and_pid, 0.005) for _ in range(2 * workers)]
        seen.update(future.result() for future in futures)


def _worker_counts(cores: int) -> Iterator[int]:
    """1, 2, 4 ... and all."""
    workers = 1
    while workers < cores:
        yield workers
        workers *= 2
    yield cores


def _work_rate(exe: Executor, workers: int) -> float:
    """Pieces of the same work per second, so many of them at a time."""
    done: list[int] = []
    end_s = time.perf_counter() + BUDGET_S
    stopped = threading.Event()

    def go_on() -> None:
        while True:  # once at least: a thread may begin late
            exe.submit(probes.count_down, probes.STEPS).result()
            done.append(1)
            if time.perf_counter() > end_s or stopped.is_set():
                return

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for ended in [threads.submit(go_on) for _ in range(workers)]:
                ended.result()
        finally:
            stopped.set()  # Ctrl-C is not to wait for the others
    return len(done) / (time.perf_counter() - start)


# ---- without block allocation ----


def _measure_alone(measured: Measured, show: Progress) -> None:
    show("a process for each call")
    with Executor(max_cores=measured.cores, backend=measured.backend) as exe:
        measured.alone_s = statistics.median(_trip_times(exe, trial=3))
        for length in measured.lengths:
            show(f"calls of {length.call_s:g} s with a process each")
            length.alone = _efficiency(exe, measured.cores, length.call_s, _submitted)


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


# ---- how ----


def _affordable(run: Callable[[int], object], trial: int, most: int = CALLS_MAX) -> int:
    """How many calls fit into the budget, by a trial that also warms up."""
    start = time.perf_counter()
    run(trial)
    taken_s = time.perf_counter() - start
    return max(min(most, int(BUDGET_S / taken_s * trial)), 3)


def _trip_times(exe: Executor, trial: int = 20) -> list[float]:
    """Round trips of calls that do nothing, sorted."""

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

    return run(_affordable(run, trial=5 * CHUNKSIZE, most=50 * CALLS_MAX))


def _submitted(exe: Executor, call_s: float, count: int) -> float:
    futures: list[Any] = [exe.submit(probes.spin, call_s) for _ in range(count)]
    return float(sum(future.result() for future in futures))


def _mapped(exe: Executor, call_s: float, count: int) -> float:
    return sum(exe.map(probes.spin, [call_s] * count))


def _efficiency(exe: Executor, cores: int, call_s: float, calls_of: Callable[[Executor, float, int], float]) -> float:
    """Time spent inside the calls, measured there, as a share of wall time × cores; the cores get equally many."""

    def run(rounds: int) -> float:
        start = time.perf_counter()
        inside_s = calls_of(exe, call_s, rounds * cores)
        return inside_s / (time.perf_counter() - start) / cores

    return run(_affordable(run, trial=1))


def _numpy() -> Any:
    """numpy; None where there is none, or it cannot be imported."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _echo(exe: Executor, size_bytes: int) -> float:
    """A value to the worker and back."""
    numpy = _numpy()
    value: Any = numpy.ones(size_bytes // 8) if numpy else bytes(size_bytes)

    def run(count: int) -> float:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            exe.submit(probes.noop, value).result()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return run(_affordable(run, trial=3, most=1000))
