"""One case on all its peers, in alternating rounds.

round 1: pympipool, Pool, loky, ...     Each is opened, measured and closed before the next is opened,
round 2: loky, ..., pympipool, Pool     so that nothing but the measured one lives, and each round begins
...                                     elsewhere, so that a disturbance hits them all alike.
"""

from __future__ import annotations

import signal
import statistics
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.peers import OURS, PEERS, Peer

if TYPE_CHECKING:
    from benchmarks.cases import Case

LIMIT = "limit of the machine"
"""What is in the place of a peer's name where the machine's limit was measured."""

SAMPLE_WITHIN_S = 60.0
"""A peer that takes longer for one sample hangs."""

AGAIN_AFTER_S = 15.0
"""It may hang once more while it is closed."""


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Args:
        rounds: of each case.
        heavy_rounds: the same for peers that take seconds to start, in core cases; 0 leaves them out.
        budget_s: what one sample should take; slow peers run fewer calls for it.
    """

    rounds: int = 5
    heavy_rounds: int = 2
    budget_s: float = 0.5


FULL = Effort()
QUICK = Effort(rounds=3, heavy_rounds=0, budget_s=0.1)


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
    case: Case, effort: Effort, peers: Sequence[Peer] = PEERS, progress: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Measures a case on all peers that can. A peer that fails is left out from there on, with its reason."""
    comparison = Comparison(case)
    present = []
    for peer in peers:
        reason = peer.missing(case.request)
        if reason is None and peer.heavy and not (case.core and effort.heavy_rounds):
            reason = "seconds to start: only in core cases of full runs"
        if reason is None:
            present.append(peer)
        else:
            comparison.absent[peer.name] = reason
    for number in range(effort.rounds):
        start = number % max(len(present), 1)
        for peer in present[start:] + present[:start]:
            if peer.name in comparison.absent or (peer.heavy and number >= effort.heavy_rounds):
                continue
            progress(f"{case.title}, round {number + 1} of {effort.rounds}: {peer.name}")
            take_sample(comparison, peer, effort)
        if case.limit is not None:
            comparison.samples.setdefault(LIMIT, []).append(case.limit())
    return comparison


def take_sample(comparison: Comparison, peer: Peer, effort: Effort) -> None:
    try:
        with time_limit(SAMPLE_WITHIN_S):
            sample = comparison.case.sample(peer, effort)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        comparison.absent[peer.name] = reason
        comparison.failed.append(peer.name)
    else:
        comparison.samples.setdefault(peer.name, []).append(sample)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread when the time is over."""

    def give_up(signal_number: int, frame: types.FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
