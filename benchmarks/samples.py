"""How a sample of one peer is taken: one function for each kind of case.

Numbers of calls are what is affordable: each sample is to take about the same time with every peer, so that a peer
that is a thousand times slower does not take a thousand times longer.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import calls, idle
from benchmarks.peers import Peer, Pool, Request

Values = tuple[float, ...]
"""One for each quantity of a case."""


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Args:
        rounds: of core cases, from which statements are made.
        other_rounds: of the other cases.
        heavy_rounds: of peers that take a second or more to start, in core cases; 0 leaves them out.
        budget_s: what one sample should take; slow peers run fewer calls for it.
    """

    rounds: int = 5
    other_rounds: int = 3
    heavy_rounds: int = 2
    budget_s: float = 0.3


FULL = Effort()
QUICK = Effort(rounds=3, other_rounds=0, heavy_rounds=0, budget_s=0.1)

Measure = Callable[[Pool, Effort], Values]


def in_open_pool(request: Request, measure: Measure) -> Callable[[Peer, Effort], Values]:
    def sample(peer: Peer, effort: Effort) -> Values:
        with peer.opened(request) as pool:
            return measure(pool, effort)

    return sample


def affordable(most: int, effort: Effort, run: Callable[[int], object], trial: int = 50) -> int:
    """How many of most calls fit into the budget, by a trial that also warms up; slow peers are tried with fewer calls.

    The first time that so many calls run, workers may have something to import for them: the second time counts.
    """
    count = min(trial, most, 20)
    while seconds_of(functools.partial(run, count)) <= effort.budget_s / 4 and count < min(trial, most):
        count = min(5 * count, trial, most)
    taken_s = seconds_of(functools.partial(run, count))
    return max(min(most, int(effort.budget_s / taken_s * count)), min(count, 10), 3)


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
    count = max(min(int(effort.budget_s / first_s), 10_000), 3)
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

    # Every worker is to have had its first batch before.
    count = affordable(most, effort, run, trial=2000 if chunksize is None else 5 * chunksize)
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


@functools.cache
def imported(peer: Peer) -> Peer:
    """The peer, its modules imported and its helpers running, as in a program that has used it before."""
    with peer.opened(Request()):
        return peer


def first_result(peer: Peer, effort: Effort) -> Values:
    """From nothing to the first result, and not to the end of what was started."""
    imported(peer)
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
    return (float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout),)


def idle_cores(pool: Pool, effort: Effort) -> Values:
    return (idle.cores_used(seconds=max(4 * effort.budget_s, 1.0)),)
