"""What is measured. A case takes a sample of one peer; `rounds` compares the peers.

Numbers of calls are what is affordable: each sample is to take about the same time with every peer, so that a peer
that is a thousand times slower does not take a thousand times longer.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import calls, idle, limits
from benchmarks.peers import Ability, Peer, Pool, Request
from benchmarks.rounds import Effort

Values = tuple[float, ...]
Measure = Callable[[Pool, Effort], Values]


@dataclass(frozen=True)
class Unit:
    higher_is_better: bool
    text: Callable[[float], str]


@dataclass(frozen=True)
class Quantity:
    name: str
    unit: Unit


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        section: the cases of a section are the columns of one table.
        title: of the column.
        quantities: what a sample consists of.
        request: the workers.
        sample: takes a sample of a peer.
        limit: what the machine could do, in the same quantities; or fewer of them.
        core: whether it is a part of the quick run, and taken by peers that need seconds to start.
    """

    section: str
    title: str
    quantities: tuple[Quantity, ...]
    request: Request
    sample: Callable[[Peer, Effort], Values]
    limit: Callable[[], Values] | None = None
    core: bool = True

    @property
    def name(self) -> str:
        """For the command line."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.section} {self.title}".lower()).strip("-")


# ---- units ----


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    factor, name = next((step for step in steps if value >= step[0]), steps[-1])
    return f"{value / factor:.3g} {name}"


def show_seconds(value: float) -> str:
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def show_rate(value: float) -> str:
    return _scaled(value, ((1e6, "M/s"), (1e3, "k/s"), (1, "/s")))


def show_bytes(value: float) -> str:
    return _scaled(value, ((1e6, "MB"), (1e3, "kB"), (1, "B")))


SECONDS = Unit(False, show_seconds)
RATE = Unit(True, show_rate)
BYTES = Unit(False, show_bytes)
SHARE = Unit(True, lambda value: f"{value:.3f}")
CORES = Unit(False, lambda value: f"{100 * value:.2f} %")

TIME = (Quantity("time", SECONDS),)
TRIPS = (Quantity("p50", SECONDS), Quantity("p99", SECONDS))


# ---- how samples are taken ----


def in_open_pool(request: Request, measure: Measure) -> Callable[[Peer, Effort], Values]:
    def sample(peer: Peer, effort: Effort) -> Values:
        with peer.opened(request) as pool:
            return measure(pool, effort)

    return sample


def affordable(most: int, effort: Effort, run: Callable[[int], object], trial: int = 50) -> int:
    """How many of most calls fit into the budget, by a trial that also warms up."""
    start = time.perf_counter()
    run(min(trial, most))
    taken_s = time.perf_counter() - start
    return max(min(most, int(effort.budget_s / taken_s * trial)), trial // 5, 3)


def submit_all(pool: Pool, fn: Callable[..., Any], *args: Any, count: int) -> list[Any]:
    return [handle.result() for handle in [pool.submit(fn, *args) for _ in range(count)]]


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# ---- round trip ----


def trip_times(trip: Callable[[], object], effort: Effort, most: int, trial: int) -> list[float]:
    def run(count: int) -> None:
        for _ in range(count):
            trip()

    count = affordable(most, effort, run, trial)
    return sorted(seconds_of(trip) for _ in range(count))


def round_trip(pool: Pool, effort: Effort) -> Values:
    times = trip_times(lambda: pool.submit(calls.noop, 1).result(), effort, most=10_000, trial=20)
    return times[len(times) // 2], times[int(0.99 * len(times))]


def echo(pool: Pool, effort: Effort, value: Any) -> Values:
    """A value to the worker and back; arrays are written on both sides."""
    is_array = isinstance(value, np.ndarray)

    def trip() -> None:
        if is_array:
            calls.change(pool.submit(calls.change, value).result())
        else:
            pool.submit(calls.noop, value).result()

    trip()  # first of all: its pages are touched for the first time
    first_s = seconds_of(trip)
    count = max(min(int(effort.budget_s / first_s), 1000), 3)
    return (statistics.median(seconds_of(trip) for _ in range(count)),)


# ---- many calls ----


def submit_rate(pool: Pool, effort: Effort) -> Values:
    def run(count: int) -> None:
        submit_all(pool, calls.noop, 1, count=count)

    count = affordable(20_000, effort, run)
    return (count / seconds_of(lambda: run(count)),)


def map_rate(pool: Pool, effort: Effort, most: int, chunksize: int | None) -> Values:
    def run(count: int) -> None:
        for _ in pool.map(calls.noop, range(count), chunksize):
            pass

    count = affordable(most, effort, run, trial=20 if chunksize is None else 5 * chunksize)
    return (count / seconds_of(lambda: run(count)),)


def efficiency(pool: Pool, effort: Effort, workers: int, call: Callable[[float], float], call_s: float) -> Values:
    """Time spent inside the calls, measured there, as a share of wall time × workers."""

    def run(count: int) -> float:
        return float(sum(submit_all(pool, call, call_s, count=count)))

    most = max(int(2 * workers * effort.budget_s / call_s), 4 * workers)
    count = affordable(most, effort, run, trial=2 * workers)
    start = time.perf_counter()
    inside_s = run(max(count, 4 * workers))
    return (inside_s / (time.perf_counter() - start) / workers,)


def chain(pool: Pool, effort: Effort) -> Values:
    """Each call takes the future of the one before; s for a thousand."""

    def run(length: int) -> None:
        value: Any = 0
        for _ in range(length):
            value = pool.submit(calls.increment, value)
        if value.result() != length:
            raise RuntimeError(f"a chain of {length} calls counted to {value.result()}")

    length = affordable(1000, effort, run, trial=20)
    return (seconds_of(lambda: run(length)) / length * 1000,)


def fan_in(pool: Pool, effort: Effort) -> Values:
    """A thousand calls, and one that takes all their futures."""

    def run() -> None:
        inputs = [pool.submit(calls.noop, 1) for _ in range(1000)]
        if pool.submit(calls.total, *inputs).result() != 1000:
            raise RuntimeError("the sum of a thousand ones is wrong")

    return (seconds_of(run),)


# ---- beginnings, and doing nothing ----


def first_result(peer: Peer, effort: Effort) -> Values:
    start = time.perf_counter()
    pool = peer.make(Request())
    pool.submit(calls.noop, 1).result()
    taken_s = time.perf_counter() - start
    pool.shutdown()
    return (taken_s,)


def one_process_per_call(pool: Pool, effort: Effort) -> Values:
    times = trip_times(lambda: pool.submit(calls.noop, 1).result(), effort, most=50, trial=3)
    return (statistics.median(times),)


def pending_memory(peer: Peer, effort: Effort) -> Values:
    """In a process of its own: what an earlier sample has freed would be used again and not be seen."""
    command = [sys.executable, "-m", "benchmarks.pending", peer.name]
    return (float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout),)


def idle_cores(pool: Pool, effort: Effort) -> Values:
    return (idle.cores_used(seconds=max(4 * effort.budget_s, 1.0)),)


# ---- all of them ----


def _case(
    section: str,
    title: str,
    measure: Measure,
    *,
    quantities: tuple[Quantity, ...] = TIME,
    request: Request | None = None,
    limit: Callable[[], Values] | None = None,
    core: bool = True,
) -> Case:
    request = request or Request()
    return Case(section, title, quantities, request, in_open_pool(request, measure), limit, core)


def _rate_cases() -> Iterator[Case]:
    case = partial(_case, "Rate", quantities=(Quantity("rate", RATE),))
    yield case("submit, 1 worker", submit_rate, limit=lambda: (limits.records_per_second(),))
    yield case("submit, 2 workers", submit_rate, request=Request(2))
    yield case("map, 2 workers", partial(map_rate, most=20_000, chunksize=None), request=Request(2))
    chunked = partial(map_rate, most=200_000, chunksize=1000)
    yield case("map with chunksize 1000, 2 workers", chunked, request=Request(2))


def _array(size_bytes: int) -> Any:
    return np.random.default_rng(1).random(size_bytes // 8)


def _nested(size_bytes: int) -> Any:
    return {f"step {i}": {"positions": _array(size_bytes // 10), "energy": float(i)} for i in range(10)}


def _frame(size_bytes: int) -> Any:
    import pandas as pd

    return pd.DataFrame(_array(size_bytes).reshape(-1, 10), columns=list("abcdefghij"))


def _echo_cases() -> Iterator[Case]:
    def case(title: str, make: Callable[[int], Any], size_bytes: int = 0) -> Case:
        """make is not called before its time: nobody wants 100 MB at import."""

        def limit() -> Values:
            return (2 * limits.copy_time(size_bytes),)

        return _case(
            "Echo",
            title,
            lambda pool, effort: echo(pool, effort, make(size_bytes)),
            limit=limit if size_bytes else None,
            core=make is _array and size_bytes == 8_000_000,
        )

    yield case("int", lambda _: 12345)
    yield case("1 B", lambda _: b"x")
    yield case("100 kB of bytes", bytes, 100_000)
    for title, size_bytes in (("8 kB", 8_000), ("80 kB", 80_000), ("800 kB", 800_000), ("8 MB", 8_000_000)):
        yield case(f"{title} of float64", _array, size_bytes)
    yield case("100 MB of float64", _array, 100_000_000)
    yield case("8 MB in a dict of dicts of arrays", _nested, 8_000_000)
    if find_spec("pandas") is not None:
        yield case("8 MB in a pandas frame", _frame, 8_000_000)


def _efficiency_cases() -> Iterator[Case]:
    """Calls compute where there are cores enough, and sleep where there are more workers than that."""
    for workers in (1, 2, 8, 64):
        call = calls.spin if workers <= 2 else calls.nap
        for call_s in (1e-4, 1e-3, 1e-2) if workers <= 2 else (1e-3, 1e-2):
            title = f"{call.__name__} of {1000 * call_s:g} ms, {workers} worker{'s' * (workers > 1)}"
            yield _case(
                "Efficiency",
                title,
                partial(efficiency, workers=workers, call=call, call_s=call_s),
                quantities=(Quantity("share", SHARE),),
                request=Request(workers, needs=Ability.MANY_WORKERS if workers > 8 else Ability.NOTHING),
                limit=lambda: (1.0,),
                core=(workers, call_s) == (2, 1e-3),
            )


def _other_cases() -> Iterator[Case]:
    alone = Request(block=False, needs=Ability.ONE_PROCESS_PER_CALL)
    yield Case("Start", "first result", TIME, Request(), first_result)
    yield _case("Start", "one process per call", one_process_per_call, request=alone)
    for ranks in (2, 4):
        request = Request(ranks=ranks, needs=Ability.MPI)
        title = f"round trip, {ranks} ranks"
        yield _case("MPI functions", title, round_trip, quantities=TRIPS, request=request, core=ranks == 2)
    linked = Request(needs=Ability.FUTURES_AS_ARGUMENTS)
    yield _case("Futures as arguments", "chain of 1000 calls", chain, request=linked)
    yield _case("Futures as arguments", "fan-in of 1000 calls", fan_in, request=linked)
    memory = (Quantity("memory", BYTES),)
    yield Case("Cost of waiting", "memory per pending call", memory, Request(), pending_memory, core=False)
    case = partial(_case, "Cost of waiting", measure=idle_cores, quantities=(Quantity("of a core", CORES),))
    yield case(title="2 idle workers", request=Request(2), core=False)
    yield case(title="2 idle workers of 2 ranks", request=Request(2, ranks=2, needs=Ability.MPI))


CASES: tuple[Case, ...] = (
    _case("Round trip", "no-op call", round_trip, quantities=TRIPS, limit=lambda: (limits.spin_round_trip(),)),
    *_rate_cases(),
    *_echo_cases(),
    *_efficiency_cases(),
    *_other_cases(),
)
