"""The guard: speed that was reached is not lost unseen.

Ratios, not times, so that they hold on any machine, with wide bounds. What disturbs can hide speed but not feign it, so
a case may be measured again; and a machine that is busy with other things proves nothing. The instructions of the
ring depend on neither, and have narrow bounds.
"""

from __future__ import annotations

import shutil

import pytest

from benchmarks import limits
from benchmarks.cases import find_case
from benchmarks.idle import BUSY_SHARE, busy_share
from benchmarks.peers import OURS, find_peer
from benchmarks.rounds import compare
from benchmarks.samples import Effort
from benchmarks.station import Stations

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]

STANDARD = find_peer("ProcessPoolExecutor")
EFFORT = Effort(rounds=5, budget_s=0.2)
ATTEMPTS = 3

PUSH_INSTRUCTIONS = 120
"""Of a record of 64 bytes, its memcpy and the loop of ring.c included. Measured with gcc 12 on x86-64: 105."""

PUSH_AND_POP_INSTRUCTIONS = 250
"""Likewise; measured: 221."""


def reaches(times: float, name: str, stations: Stations) -> bool:
    """Whether ours is so many times better than the standard library in a case."""
    reached, busy = 0.0, busy_share()
    for _ in range(ATTEMPTS):
        reached = max(reached, _times_better(name, stations))
        if reached >= times:
            return True
    busy = max(busy, busy_share())
    if busy > BUSY_SHARE:
        pytest.skip(f"only {reached:.1f} times, but {busy:.0%} of the machine is busy otherwise: run it alone")
    print(f"{name}: {reached:.1f} times better than {STANDARD.name}, it should be {times:g}")
    return False


def _times_better(name: str, stations: Stations) -> float:
    comparison = compare(find_case(name), EFFORT, stations, [OURS, STANDARD])
    assert not comparison.failed, comparison.absent
    return comparison.times_better(STANDARD.name) or 0.0


def test_round_trip_beats_standard_library_tenfold(stations: Stations) -> None:
    assert reaches(10, "round-trip-no-op-call", stations)


def test_large_array_echo_beats_standard_library_tenfold(stations: Stations) -> None:
    assert reaches(10, "echo-of-float64-arrays-8-mb", stations)


@pytest.mark.parametrize("workers", ["1-worker", "2-workers"])
def test_submit_rate_beats_standard_library_fivefold(workers: str, stations: Stations) -> None:
    assert reaches(5, f"rate-submit-{workers}", stations)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="callgrind is not here: apt-get install valgrind")
@pytest.mark.parametrize(("what", "most"), [("push", PUSH_INSTRUCTIONS), ("push-pop", PUSH_AND_POP_INSTRUCTIONS)])
def test_ring_instructions_stay_within_bounds(what: str, most: int) -> None:
    assert limits.instructions(what, size_bytes=64) <= most
