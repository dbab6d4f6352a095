"""Comparison of two executors in one run. It prints one line for each measurement.

    compare(title, sample, ours, theirs, rounds)     alternating rounds: ours, theirs; theirs, ours; ...

The programs `tcp` and `slurm` check a required ratio with it. `python -m benchmarks` makes tables of many peers.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import calls, limits
from benchmarks.peers import Peer, Request
from benchmarks.pools import Pool

Sample = Callable[[Pool], float]
"""Measures an open executor and returns seconds; less is better."""


def call_time(pool: Pool, count: int = 3000) -> float:
    """Return the time per call of many no-op calls that are submitted at once; its inverse is the rate."""
    for burst in (200, count):  # the first one warms up
        start_s = time.perf_counter()
        for handle in [pool.submit(calls.noop, 1) for _ in range(burst)]:
            handle.result()
    return (time.perf_counter() - start_s) / count


def round_trip(pool: Pool, count: int = 1000) -> float:
    """Return the median time of no-op calls, one after the other."""
    return statistics.median(_times(lambda: pool.submit(calls.noop, 1).result(), count)[count // 10 :])


def echo_of_8_mb(pool: Pool, count: int = 15) -> float:
    """Return the median round trip of a million float64. Both sides write into the array that they received."""
    array = np.random.default_rng(1).random(1_000_000)
    return statistics.median(
        _times(lambda: calls.increment_first(pool.submit(calls.increment_first, array).result()), count)[3:]
    )


def _times(trip: Callable[[], Any], count: int) -> list[float]:
    times = []
    for _ in range(count):
        start_s = time.perf_counter()
        trip()
        times.append(time.perf_counter() - start_s)
    return times


def compare(title: str, sample: Sample, ours: Peer, theirs: Peer, rounds: int) -> float:
    """Print the medians of both peers and return how many times faster ours is."""
    samples: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(rounds):
        for peer in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            with peer.opened(Request()) as pool:
                samples[peer.name].append(sample(pool))
    our_s, their_s = (statistics.median(samples[peer.name]) for peer in (ours, theirs))
    shown = ", ".join(f"{name} {1e6 * statistics.median(times):.1f} µs" for name, times in samples.items())
    print(f"{title}: {shown}: {their_s / our_s:.2f} times faster", flush=True)
    return their_s / our_s


def add_repository_to_pythonpath() -> None:
    """Add the root of the repository to PYTHONPATH, so that workers of both peers can import the functions they run."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
