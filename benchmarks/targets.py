"""What the executor is meant to reach, as ratios to peers of the same run, and what it reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.peers import OURS
from benchmarks.rounds import Comparison
from benchmarks.units import format_ratio

POOL = "multiprocessing.Pool"
STANDARD = "ProcessPoolExecutor"
EXECUTORLIB = "executorlib"
WITHOUT_DEPENDENCIES = "executorlib, dependencies off"


@dataclass(frozen=True)
class Target:
    """One promise.

    Args:
        what: it is about.
        case: its name.
        peers: and how many times better than each of them; for none of them `share` holds.
        share: to be reached at least, 0 to 1.
        quantity: of the case, by number.
    """

    what: str
    case: str
    peers: Mapping[str, float]
    share: float = 0.0
    quantity: int = 0


def _targets() -> Iterator[Target]:
    for workers in ("1 worker", "2 workers"):
        name = f"rate-submit-{workers.replace(' ', '-')}"
        yield Target(f"rate of 20 000 no-op submits and their results, {workers}", name, {POOL: 8, STANDARD: 12})
    trip = "round-trip-no-op-call"
    yield Target("round trip of a no-op call, p50", trip, {POOL: 10, STANDARD: 25})
    yield Target("round trip of a no-op call, p99", trip, {POOL: 10, STANDARD: 10}, quantity=1)
    yield Target("`map` over 200 000 no-ops, chunksize 1000", "rate-map-with-chunksize-1000-2-workers", {POOL: 1})
    yield Target("`map` without a chunksize", "rate-map-2-workers", {STANDARD: 20})
    for size in ("8 MB", "100 MB"):
        name = f"echo-of-float64-arrays-{size.lower().replace(' ', '-')}"
        yield Target(f"echo of {size} of float64", name, {WITHOUT_DEPENDENCIES: 4, STANDARD: 10})
    yield Target("calls of 1 ms on 2 workers", "efficiency-2-workers-that-compute-calls-of-1-ms", {}, share=0.97)
    yield Target(
        "calls of 10 ms of sleep on 64 workers", "efficiency-64-workers-that-sleep-calls-of-10-ms", {}, share=0.90
    )
    yield Target("one process per call, one core", "start-one-process-per-call", {EXECUTORLIB: 10})
    yield Target(
        "function of 2 MPI ranks, round trip p50",
        "mpi-functions-round-trip-2-ranks",
        {WITHOUT_DEPENDENCIES: 4, EXECUTORLIB: 50},
    )
    yield Target("chain of 1000 dependent calls", "futures-as-arguments-chain-of-1000-calls", {EXECUTORLIB: 100})
    yield Target("first result with block allocation", "start-first-result", {EXECUTORLIB: 2})


TARGETS: tuple[Target, ...] = tuple(_targets())


def format_targets(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """The table: a row for each promise that was measured, with the spread that the rounds allow."""
    by_name = {comparison.case.name: comparison for comparison in comparisons}
    rows = [row for target in TARGETS if target.case in by_name for row in _rows(target, by_name[target.case])]
    if not rows:
        return
    yield "| what | against | at least | reached | worst to best round | |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    yield from rows


def _rows(target: Target, comparison: Comparison) -> Iterator[str]:
    ours = comparison.values(OURS.name, target.quantity)
    if not ours:
        return
    if target.share:
        reached = comparison.median(OURS.name, target.quantity)
        spread = f"{min(ours):.3f} – {max(ours):.3f}"
        yield _row(
            target.what, "the time there is", f"{target.share:.2f}", f"{reached:.3f}", spread, reached >= target.share
        )
        return
    for peer, least in target.peers.items():
        times = comparison.times_better(peer, target.quantity)
        if times is None:
            yield f"| {target.what} | {peer} | {format_ratio(least)} × | not measured | | |"
            continue
        worst, best = _spread(comparison, peer, target.quantity)
        spread = f"{format_ratio(worst)} – {format_ratio(best)} ×"
        yield _row(target.what, peer, f"{format_ratio(least)} ×", f"{format_ratio(times)} ×", spread, times >= least)


def _row(what: str, against: str, least: str, reached: str, spread: str, is_reached: bool) -> str:
    return f"| {what} | {against} | {least} | **{reached}** | {spread} | {'✓' if is_reached else '✗'} |"


def _spread(comparison: Comparison, peer: str, quantity: int) -> tuple[float, float]:
    """The smallest and the largest ratio of a round to the same round of the peer."""
    pairs = zip(comparison.values(OURS.name, quantity), comparison.values(peer, quantity), strict=False)
    more_is_better = comparison.case.quantities[quantity].unit.higher_is_better
    ratios = [ours / theirs if more_is_better else theirs / ours for ours, theirs in pairs]
    return min(ratios), max(ratios)
