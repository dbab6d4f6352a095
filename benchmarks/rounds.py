"""One case on all its peers, in alternating rounds.

round 1: pympipool, Pool, loky, ...     Each is opened, measured and closed before the next is opened,
round 2: loky, ..., pympipool, Pool     so that nothing but the measured one is awake, and each round begins
...                                     elsewhere, so that a disturbance hits them all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.cases import Case
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.samples import Effort
from benchmarks.station import SampleFailed, Stations

LIMIT = "limit of the machine"
"""What is in the place of a peer's name where the machine's limit was measured."""


@dataclass
class Comparison:
    """What a case gave: for each peer one tuple of values per round, in the order of the case's quantities."""

    case: Case
    samples: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # peer: why it is not there, or not in all rounds
    failed: list[str] = field(default_factory=list)  # of these, who should have been there

    def values(self, peer: str, quantity: int = 0) -> list[float]:
        return [sample[quantity] for sample in self.samples.get(peer, []) if quantity < len(sample)]

    def median(self, peer: str, quantity: int = 0) -> float:
        return statistics.median(self.values(peer, quantity))

    def times_better(self, peer: str, quantity: int = 0) -> float | None:
        """How many times better ours is than a peer; None where one of them is not there, or is 0."""
        if not self.values(peer, quantity) or not self.values(OURS.name, quantity):
            return None
        ours, theirs = self.median(OURS.name, quantity), self.median(peer, quantity)
        if self.case.quantities[quantity].unit.higher_is_better:
            ours, theirs = theirs, ours
        return theirs / ours if ours and theirs else None


def compare(
    case: Case,
    effort: Effort,
    stations: Stations,
    peers: Sequence[Peer] = PEERS,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measures a case on all peers that can. A peer that fails is left out from there on, with its reason."""
    comparison = Comparison(case)
    present = []
    for peer in peers:
        reason = peer.missing(case.request)
        if reason is None and peer.heavy and not (case.core and effort.heavy_rounds):
            reason = "slow to start: only in core cases of full runs"
        if reason is None:
            present.append(peer)
        else:
            comparison.absent[peer.name] = reason
    rounds = effort.rounds if case.core else effort.other_rounds
    for number in range(rounds):
        start = number % max(len(present), 1)
        for peer in present[start:] + present[:start]:
            if peer.name in comparison.absent or (peer.heavy and number >= effort.heavy_rounds):
                continue
            progress(f"{case.name}, round {number + 1} of {rounds}: {peer.name}")
            try:
                sample = stations.sample(peer, case.name, effort)
            except SampleFailed as failure:
                comparison.absent[peer.name] = str(failure)
                comparison.failed.append(peer.name)
            else:
                comparison.samples.setdefault(peer.name, []).append(sample)
        if case.limit is not None:
            comparison.samples.setdefault(LIMIT, []).append(case.limit())
    return comparison
