"""The targets of the executor, as ratios to peers of the same run, and the ratios that a run reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.payloads import PAYLOADS
from benchmarks.peers import OURS
from benchmarks.rounds import Comparison
from benchmarks.units import format_ratio

POOL = "multiprocessing.Pool"
STANDARD = "ProcessPoolExecutor"
THREADS = "ThreadPoolExecutor"
EXECUTORLIB = "executorlib"
JOBLIB = "joblib"
RAY = "ray"
WITHOUT_DEPENDENCIES = "executorlib, dependencies off"


@dataclass(frozen=True)
class Target:
    """One target: ratios to peers, or a value of pympipool's own.

    Args:
        description: what the target is about.
        case: name of the case.
        peers: for each peer, how many times better pympipool must be; empty for a target with a value.
        value: what to reach or to stay below, in the unit of the quantity.
        quantity: index of the quantity of the case.
        value_of: what the value is a share or a multiple of.
    """

    description: str
    case: str
    peers: Mapping[str, float]
    value: float = 0.0
    quantity: int = 0
    value_of: str = ""


def _targets() -> Iterator[Target]:
    for workers in ("1 worker", "2 workers"):
        name = f"rate-submit-{workers.replace(' ', '-')}"
        yield Target(f"rate of 20 000 no-op submits and their results, {workers}", name, {POOL: 15, STANDARD: 12})
    trip = "round-trip-no-op-call"
    yield Target("round trip of a no-op call, p50", trip, {POOL: 10, STANDARD: 25})
    yield Target("round trip of a no-op call, p99", trip, {POOL: 10, STANDARD: 10}, quantity=1)
    for what, name in (
        ("an instance of a class of the script as argument", "instance"),
        ("a bound method of such an instance", "bound-method"),
        ("such an instance as result", "result"),
    ):
        yield Target(f"call with {what}, p50", f"classes-of-the-script-{name}", {POOL: 5})
    yield Target("`map` over 200 000 no-ops, chunksize 1000", "rate-map-with-chunksize-1000-2-workers", {POOL: 1})
    yield Target("`map` without a chunksize", "rate-map-2-workers", {STANDARD: 20})
    yield Target("echo of 8 kB of float64", "echo-of-float64-arrays-8-kb", {}, value=15e-6)
    for size in ("8 MB", "100 MB"):
        name = f"echo-of-float64-arrays-{size.lower().replace(' ', '-')}"
        yield Target(f"echo of {size} of float64", name, {WITHOUT_DEPENDENCIES: 4, STANDARD: 10})
    for array in ("datetime64 array", "masked array", "memmap of a file"):
        name = f"echo-of-other-values-{array.replace(' ', '-')}-8-mb"
        yield Target(f"echo of a {array} of 8 MB", name, {STANDARD: 5})
    for payload in PAYLOADS:
        name = f"real-payloads-submit-and-map-{payload.title.lower().replace(' ', '-')}"
        yield Target(f"{payload.title} through `submit`", name, {POOL: 1})
        yield Target(f"{payload.title} through `map` with chunksize 100", name, {POOL: 1}, quantity=2)
    shared = "shared-data-1000-calls"
    yield Target("1000 calls that read a row of a shared array of 80 MB", shared, {JOBLIB: 10, RAY: 20})
    yield Target("rate of such calls", shared, {}, value=2 / 3, quantity=1, value_of="rate of no-op calls")
    written = "shared-data-rows-written-in-place-2000-calls"
    yield Target("rows of 80 kB written in place", written, {}, value=5, quantity=1, value_of="returned rows")
    share = "wall time × workers"
    yield Target(
        "calls of 1 ms on 2 workers", "efficiency-2-workers-that-compute-calls-of-1-ms", {}, value=0.97, value_of=share
    )
    yield Target(
        "calls of 10 ms of sleep on 64 workers",
        "efficiency-64-workers-that-sleep-calls-of-10-ms",
        {},
        value=0.9,
        value_of=share,
    )
    yield Target("one process per call, one core", "start-one-process-per-call", {EXECUTORLIB: 10})
    yield from _targets_of_ranks()
    yield Target("one call awaited after the other by asyncio", "real-payloads-asyncio-int", {THREADS: 2}, quantity=1)
    yield Target("chain of 1000 dependent calls", "futures-as-arguments-chain-of-1000-calls", {EXECUTORLIB: 100})
    yield Target("first result with block allocation", "start-first-result", {EXECUTORLIB: 2})


def _targets_of_ranks() -> Iterator[Target]:
    for ranks, times in ((2, 25), (4, 5), (8, 5)):
        case = f"mpi-functions-round-trip-{ranks}-ranks"
        peers = {WITHOUT_DEPENDENCIES: times, EXECUTORLIB: 50}
        yield Target(f"function of {ranks} MPI ranks, round trip p50", case, peers)
    yield Target("function of 2 MPI ranks, round trip p50", "mpi-functions-round-trip-2-ranks", {}, value=12e-6)
    for ranks, times in ((2, 30), (4, 10), (8, 10)):
        case = f"mpi-functions-rate-submit-{ranks}-ranks"
        yield Target(f"rate of no-op submits to {ranks} MPI ranks", case, {WITHOUT_DEPENDENCIES: times})
    yield Target("rate of no-op submits to 2 MPI ranks", "mpi-functions-rate-submit-2-ranks", {}, value=100_000)
    what, case = "echo of 8 MB to 2 MPI ranks", "mpi-functions-echo-of-an-array-8-mb-2-ranks"
    yield Target(what, case, {WITHOUT_DEPENDENCIES: 12})
    yield Target(what, case, {}, quantity=1, value=2.5, value_of="one process")
    for ranks in (2, 8):
        yield Target(f"idle rank of {ranks}", f"mpi-functions-idle-ranks-a-rank-of-{ranks}", {}, value=0.001)


TARGETS: tuple[Target, ...] = tuple(_targets())


def format_targets(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """Yield the table: a row for each ratio of a measured target, with the range of the ratio over the rounds."""
    by_name = {comparison.case.name: comparison for comparison in comparisons}
    rows = [row for target in TARGETS if target.case in by_name for row in _rows(target, by_name[target.case])]
    if not rows:
        return
    yield "| target | compared with | to reach | reached | worst to best round | |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    yield from rows


def _rows(target: Target, comparison: Comparison) -> Iterator[str]:
    ours = comparison.values(OURS.name, target.quantity)
    if not ours:
        return
    if target.value:
        unit, reached = comparison.case.quantities[target.quantity].unit, comparison.median(OURS.name, target.quantity)
        worst, best = sorted((min(ours), max(ours)), reverse=not unit.higher_is_better)
        yield _row(
            target.description,
            target.value_of,
            f"{'at least' if unit.higher_is_better else 'at most'} {unit.text(target.value)}",
            unit.text(reached),
            f"{unit.text(worst)} – {unit.text(best)}",
            reached >= target.value if unit.higher_is_better else reached <= target.value,
        )
        return
    for peer, minimum in target.peers.items():
        times = comparison.times_better(peer, target.quantity)
        if times is None:
            yield f"| {target.description} | {peer} | {format_ratio(minimum)} × | not measured | | |"
            continue
        worst, best = _spread(comparison, peer, target.quantity)
        spread = f"{format_ratio(worst)} – {format_ratio(best)} ×"
        yield _row(
            target.description, peer, f"{format_ratio(minimum)} ×", f"{format_ratio(times)} ×", spread, times >= minimum
        )


def _row(description: str, against: str, minimum: str, reached: str, spread: str, is_reached: bool) -> str:
    return f"| {description} | {against} | {minimum} | **{reached}** | {spread} | {'✓' if is_reached else '✗'} |"


def _spread(comparison: Comparison, peer: str, quantity: int) -> tuple[float, float]:
    """Return the smallest and the largest ratio between pympipool and the peer in the same round."""
    pairs = zip(comparison.values(OURS.name, quantity), comparison.values(peer, quantity), strict=False)
    more_is_better = comparison.case.quantities[quantity].unit.higher_is_better
    ratios = [ours / theirs if more_is_better else theirs / ours for ours, theirs in pairs]
    return min(ratios), max(ratios)
