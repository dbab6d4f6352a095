"""Takes samples of one peer: one function for each kind of case.

The number of calls depends on the peer. A sample takes about the same time with every peer: a peer that is a thousand
times slower runs fewer calls, and does not take a thousand times longer.
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
from benchmarks.peers import Peer, Request
from benchmarks.pools import Pool

Values = tuple[float, ...]
"""One value for each quantity of a case."""


@dataclass(frozen=True)
class Effort:
    """The effort of a run. The names of the fields are keys in the files of results.

    Args:
        rounds: rounds of core cases, on which the targets are mostly based.
        other_rounds: rounds of the other cases; 0 skips these cases.
        heavy_rounds: rounds of peers that take a second or more to start, in core cases; 0 skips these peers.
        budget_s: seconds that one sample should take; slow peers run fewer calls.
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


def affordable_calls(max_calls: int, effort: Effort, run: Callable[[int], object], trial_calls: int = 50) -> int:
    """Return how many calls fit into the budget, at most max_calls.

    A trial determines it and warms the workers up. Slow peers run fewer calls in the trial. Its last step is run twice,
    and only the second run counts: in the first, workers may have to import modules.
    """
    count = min(trial_calls, max_calls, 20)
    while seconds_of(functools.partial(run, count)) <= effort.budget_s / 4 and count < min(trial_calls, max_calls):
        count = min(5 * count, trial_calls, max_calls)
    taken_s = seconds_of(functools.partial(run, count))
    return max(min(max_calls, int(effort.budget_s / taken_s * count)), min(count, 10), 3)


def submit_all(pool: Pool, fn: Callable[..., Any], *args: Any, count: int) -> list[Any]:
    return [handle.result() for handle in [pool.submit(fn, *args) for _ in range(count)]]


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# ---- round trip ----


def trip_times(trip: Callable[[], object], effort: Effort, max_calls: int, trial_calls: int) -> list[float]:
    def run(count: int) -> None:
        for _ in range(count):
            trip()

    count = affordable_calls(max_calls, effort, run, trial_calls)
    return sorted(seconds_of(trip) for _ in range(count))


def round_trip(pool: Pool, effort: Effort) -> Values:
    times = trip_times(lambda: pool.submit(calls.noop, 1).result(), effort, max_calls=10_000, trial_calls=20)
    return times[len(times) // 2], times[int(0.99 * len(times))]


def script_call(pool: Pool, effort: Effort, case: str) -> Values:
    """Return p50 and p99 of the round trips of a call with a class of the script."""
    fn, *args = calls.call_of_script(case)
    times = trip_times(lambda: pool.submit(fn, *args).result(), effort, max_calls=10_000, trial_calls=20)
    return times[len(times) // 2], times[int(0.99 * len(times))]


def echo(pool: Pool, effort: Effort, value: Any, are_written: bool = True) -> Values:
    """Send a value to the worker and back. Both sides write into arrays, if `are_written`."""
    is_written = are_written and isinstance(value, np.ndarray)

    def trip() -> None:
        if is_written:
            calls.increment_first(pool.submit(calls.increment_first, value).result())
        else:
            pool.submit(calls.noop, value).result()

    trip()  # touches all pages of the memory for the first time
    first_s = seconds_of(trip)
    count = max(min(int(effort.budget_s / first_s), 10_000), 3)
    return (statistics.median(seconds_of(trip) for _ in range(count)),)


def echo_of_ranks(peer: Peer, effort: Effort, request: Request, value: Any) -> Values:
    """Return the seconds of an echo by all ranks, and how many times that of one process, which runs in turns with it."""
    times: tuple[list[float], list[float]] = ([], [])
    with peer.opened(request) as ranks, peer.opened(Request()) as process:

        def trip(pool: Pool) -> None:
            pool.submit(calls.noop, value).result()

        for pool in (ranks, process):
            trip(pool)  # touches all pages of the memory for the first time
        while len(times[0]) < 3 or sum(map(sum, times)) < effort.budget_s:
            for pool, of_pool in zip((ranks, process), times, strict=True):
                of_pool.append(seconds_of(functools.partial(trip, pool)))
    of_ranks_s, of_process_s = map(statistics.median, times)
    return of_ranks_s, of_ranks_s / of_process_s


def large_argument(pool: Pool, effort: Effort, array: Any) -> Values:
    """Return the seconds of a call that reads an array on each rank, and the most memory that one rank has for itself."""
    expected, times, memory = float(array.sum()), [], 0.0
    while len(times) < 3 or (sum(times) < effort.budget_s and len(times) < 20):
        start = time.perf_counter()
        answers = pool.submit(calls.sum_and_memory, array).result()
        times.append(time.perf_counter() - start)
        memory = max(memory, *(of_rank for _, of_rank in answers))
        if any(total != expected for total, _ in answers):
            raise RuntimeError("a rank has got another array")
    return statistics.median(times), memory


# ---- many calls ----


def submit_rate(pool: Pool, effort: Effort) -> Values:
    def run(count: int) -> None:
        submit_all(pool, calls.noop, 1, count=count)

    count = affordable_calls(20_000, effort, run)
    return (count / seconds_of(lambda: run(count)),)


def map_rate(pool: Pool, effort: Effort, max_calls: int, chunksize: int | None) -> Values:
    def run(count: int) -> None:
        for _ in pool.map(calls.noop, range(count), chunksize):
            pass

    # After the trial, every worker has had a batch.
    count = affordable_calls(max_calls, effort, run, trial_calls=2000 if chunksize is None else 5 * chunksize)
    return (count / seconds_of(lambda: run(count)),)


def efficiency(pool: Pool, effort: Effort, workers: int, call: Callable[[float], float], call_s: float) -> Values:
    """Return the time spent inside the calls, measured in the calls, as a share of wall time × workers."""

    def run(count: int) -> float:
        return float(sum(submit_all(pool, call, call_s, count=count)))

    max_calls = max(int(2 * workers * effort.budget_s / call_s), 4 * workers)
    count = affordable_calls(max_calls, effort, run, trial_calls=2 * workers)
    start = time.perf_counter()
    inside_s = run(max(count, 4 * workers))
    return (inside_s / (time.perf_counter() - start) / workers,)


def chain(pool: Pool, effort: Effort) -> Values:
    """Return the seconds for a chain of a thousand calls, each of which takes the future of the call before it."""

    def run(length: int) -> None:
        value: Any = 0
        for _ in range(length):
            value = pool.submit(calls.increment, value)
        if value.result() != length:
            raise RuntimeError(f"a chain of {length} calls counted to {value.result()}")

    length = affordable_calls(1000, effort, run, trial_calls=20)
    return (seconds_of(lambda: run(length)) / length * 1000,)


def fan_in(pool: Pool, effort: Effort) -> Values:
    """Return the seconds for a thousand calls and a call that takes all their futures."""

    def run() -> None:
        inputs = [pool.submit(calls.noop, 1) for _ in range(1000)]
        if pool.submit(calls.sum_of, *inputs).result() != 1000:
            raise RuntimeError("the sum of a thousand ones is wrong")

    return (seconds_of(run),)


# ---- start, and cost of waiting ----


@functools.cache
def warm_up(peer: Peer) -> None:
    """Use the peer once, so that its modules are imported and its helper processes run."""
    with peer.opened(Request()):
        pass


def first_result(peer: Peer, effort: Effort) -> Values:
    """Return the seconds from the creation of the executor to the first result. Shutdown is not measured."""
    warm_up(peer)
    start = time.perf_counter()
    pool = peer.make(Request())
    pool.submit(calls.noop, 1).result()
    taken_s = time.perf_counter() - start
    pool.shutdown()
    return (taken_s,)


def one_process_per_call(pool: Pool, effort: Effort) -> Values:
    times = trip_times(lambda: pool.submit(calls.noop, 1).result(), effort, max_calls=50, trial_calls=3)
    return (statistics.median(times),)


def pending_memory(peer: Peer, effort: Effort) -> Values:
    """Run `benchmarks.pending` in a separate process. Here, calls could reuse memory that an earlier sample freed."""
    command = [sys.executable, "-m", "benchmarks.pending", peer.name]
    return (float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout),)


def idle_rank_cores(pool: Pool, effort: Effort) -> Values:
    """Return the processor time per second of an idle rank, the mean of all ranks."""

    def used_s() -> float:
        return float(np.mean(pool.submit(calls.processor_time_s).result()))

    before_s, start = used_s(), time.perf_counter()
    time.sleep(30 * effort.budget_s)
    return ((used_s() - before_s) / (time.perf_counter() - start),)


def idle_cores(pool: Pool, effort: Effort) -> Values:
    return (idle.cores_used(seconds=max(4 * effort.budget_s, 1.0)),)
