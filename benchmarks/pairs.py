"""Two executors beside each other in one run, with no more than a line printed for each thing measured.

    compare(title, unit, sample, ours, theirs, rounds)     alternating rounds: ours, theirs; theirs, ours; ...

For what must hold between two of them; tables of many peers are the matter of `python -m benchmarks`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import calls, limits
from benchmarks.peers import Peer, Pool, Request

Sample = Callable[[Pool], float]
"""Measures an executor that is open; seconds, less is better."""


def call_time(pool: Pool, count: int = 3000) -> float:
    """Of one of many no-op calls that are submitted at once; its inverse is the rate."""
    for burst in (200, count):  # the first one warms up
        begun_s = time.perf_counter()
        for handle in [pool.submit(calls.noop, 1) for _ in range(burst)]:
            handle.result()
    return (time.perf_counter() - begun_s) / count


def round_trip(pool: Pool, count: int = 1000) -> float:
    """The median of no-op calls, one after the other."""
    return statistics.median(_times(lambda: pool.submit(calls.noop, 1).result(), count)[count // 10 :])


def echo_of_8_mb(pool: Pool, count: int = 15) -> float:
    """The median of a million float64 there and back; both sides write into what has come."""
    array = np.random.default_rng(1).random(1_000_000)
    return statistics.median(_times(lambda: calls.change(pool.submit(calls.change, array).result()), count)[3:])


def _times(trip: Callable[[], Any], count: int) -> list[float]:
    times = []
    for _ in range(count):
        begun_s = time.perf_counter()
        trip()
        times.append(time.perf_counter() - begun_s)
    return times


def compare(title: str, sample: Sample, ours: Peer, theirs: Peer, rounds: int) -> float:
    """Prints the medians of both; how many times faster ours is."""
    samples: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(rounds):
        for peer in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            with peer.opened(Request()) as pool:
                samples[peer.name].append(sample(pool))
    our_s, their_s = (statistics.median(samples[peer.name]) for peer in (ours, theirs))
    shown = ", ".join(f"{name} {1e6 * statistics.median(times):.1f} µs" for name, times in samples.items())
    print(f"{title}: {shown}: {their_s / our_s:.2f} times faster", flush=True)
    return their_s / our_s


def let_workers_import_us() -> None:
    """Workers of both find the functions they are asked to run."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
