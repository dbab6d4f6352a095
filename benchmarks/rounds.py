"""Measures one case on all peers, in alternating rounds.

round 1: pympipool, Pool, loky, ...     Each peer is opened, measured and closed before the next one is opened, so that
round 2: Pool, loky, ..., pympipool     only the measured peer is awake. Each round begins with another peer, so that a
...                                     disturbance affects all peers alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.cases import Case
from benchmarks.peer_process import PeerProcesses, SampleFailed
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.samples import Effort

LIMIT = "limit of the machine"
"""Stands in place of a peer's name for the limit of the machine, also in stored results."""


@dataclass
class Comparison:
    """The samples of a case: for each peer one tuple of values per round, in the order of the case's quantities."""

    case: Case
    samples: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)  # peer -> why not, or why not in all rounds
    failed: list[str] = field(default_factory=list)  # the peers of not_measured that were available but failed

    def values(self, peer: str, quantity: int = 0) -> list[float]:
        return [sample[quantity] for sample in self.samples.get(peer, []) if quantity < len(sample)]

    def median(self, peer: str, quantity: int = 0) -> float:
        return statistics.median(self.values(peer, quantity))

    def times_better(self, peer: str, quantity: int = 0) -> float | None:
        """Return how many times better pympipool is than a peer, or None if a value is missing or 0."""
        if not self.values(peer, quantity) or not self.values(OURS.name, quantity):
            return None
        ours, theirs = self.median(OURS.name, quantity), self.median(peer, quantity)
        if self.case.quantities[quantity].unit.higher_is_better:
            ours, theirs = theirs, ours
        return theirs / ours if ours and theirs else None


def compare(
    case: Case,
    effort: Effort,
    peer_processes: PeerProcesses,
    peers: Sequence[Peer] = PEERS,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure a case on all available peers. A peer that fails is skipped from then on, and the reason is recorded."""
    comparison = Comparison(case)
    available = []
    for peer in peers:
        if peer.only_section not in {"", case.section}:
            continue
        reason = peer.unavailable_reason(case.request)
        if reason is None and peer.heavy and not (case.core and effort.heavy_rounds):
            reason = "slow to start: only in core cases of full runs"
        if reason is None:
            available.append(peer)
        else:
            comparison.not_measured[peer.name] = reason
    rounds = effort.rounds if case.core else effort.other_rounds
    for number in range(rounds):
        start = number % max(len(available), 1)
        for peer in available[start:] + available[:start]:
            if peer.name in comparison.not_measured or (peer.heavy and number >= effort.heavy_rounds):
                continue
            progress(f"{case.name}, round {number + 1} of {rounds}: {peer.name}")
            try:
                sample = peer_processes.sample(peer, case.name, effort)
            except SampleFailed as failure:
                comparison.not_measured[peer.name] = str(failure)
                comparison.failed.append(peer.name)
            else:
                comparison.samples.setdefault(peer.name, []).append(sample)
        if case.limit is not None:
            comparison.samples.setdefault(LIMIT, []).append(case.limit())
    return comparison
