"""The cases as benchmarks of pytest-benchmark: a group for each case, with its peers side by side.

pytest-benchmark would run one peer after the other. Here the first test of a case measures all peers in alternating
rounds. The test of each peer then replays its samples through a clock that shows the measured times. A rate is shown as
the time for one call. Quantities that are no times are in `extra_info`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.cases import CASES, Case
from benchmarks.peer_process import PeerProcesses
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.rounds import Comparison, compare
from benchmarks.samples import Effort
from benchmarks.units import RATE, SECONDS


class Clock:
    """A clock that shows the sum of the replayed times, in seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


CLOCK = Clock()

pytestmark = [
    pytest.mark.benchmark(timer=CLOCK.now, disable_gc=False),
    pytest.mark.timeout(1800),  # the first test of a case measures all its peers
    pytest.mark.filterwarnings("default"),  # warnings of peers are not errors
]


@pytest.fixture(scope="session")
def comparison_of(effort: Effort, peer_processes: PeerProcesses) -> Callable[[Case], Comparison]:
    cache: dict[str, Comparison] = {}

    def compare_once(case: Case) -> Comparison:
        if case.name not in cache:
            cache[case.name] = compare(case, effort, peer_processes)
        return cache[case.name]

    return compare_once


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(
    case: Case,
    peer: Peer,
    request: pytest.FixtureRequest,
    benchmark: Any,
    comparison_of: Callable[[Case], Comparison],
) -> None:
    if request.config.getoption("--quick") and not case.core:
        pytest.skip("not a part of the quick run")
    comparison = comparison_of(case)
    assert peer is not OURS or peer.name not in comparison.failed, comparison.not_measured[peer.name]
    if not comparison.values(peer.name):
        pytest.skip(comparison.not_measured[peer.name])
    benchmark.group = f"{case.section}: {case.title}"
    for i, quantity in enumerate(case.quantities):
        benchmark.extra_info[quantity.name] = comparison.median(peer.name, i)
        benchmark.extra_info[f"{quantity.name}, times better"] = comparison.times_better(peer.name, i)
    seconds = iter(as_seconds(case, value) for value in comparison.values(peer.name))
    benchmark.pedantic(lambda: CLOCK.advance(next(seconds)), rounds=len(comparison.values(peer.name)))


def as_seconds(case: Case, value: float) -> float:
    unit = case.quantities[0].unit
    return 1 / value if unit is RATE else value if unit is SECONDS else 0.0
