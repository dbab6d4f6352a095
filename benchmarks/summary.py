"""What a reader wants to know first: the cases that matter most, in words that need no explanation.

The table is the first one of the page, and is in README.md, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from benchmarks.peers import OURS, find_peer
from benchmarks.rounds import LIMIT, Comparison
from benchmarks.units import format_ratio

ROWS = {
    "round-trip-no-op-call": "a call that does nothing, there and back",
    "echo-of-float64-arrays-8-mb": "8 MB of array, there and back",
    "rate-submit-1-worker": "calls per second, submitted one by one",
    "futures-as-arguments-chain-of-1000-calls": "1000 calls, each with the future of the one before",
    "shared-data-1000-calls": "1000 calls that each read a row of one array of 80 MB",
    "mpi-functions-round-trip-2-ranks": "a call on two MPI ranks, there and back",
    "start-one-process-per-call": "a process of its own for a call",
    "start-first-result": "an executor's first result",
}
"""Cases by name, and what they measure in plain words."""

COLUMNS = tuple(
    find_peer(name)
    for name in (OURS.name, "multiprocessing.Pool", "ProcessPoolExecutor", "loky", "executorlib", "dask", "ray")
)

AHEAD = 1.1
"""A peer that is better by less than this factor is not called faster: the spread of the rounds is larger."""

MARKS = "<!-- written by python -m benchmarks -->", "<!-- until here -->"


def format_summary(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield the table, with a column for each peer that was measured in any of its cases."""
    by_name = {comparison.case.name: comparison for comparison in comparisons}
    rows = [(text, by_name[name]) for name, text in ROWS.items() if name in by_name]
    peers = [peer.name for peer in COLUMNS if any(comparison.values(peer.name) for _, comparison in rows)]
    if not peers:
        return
    yield "| |" + "".join(f" {peer} |" for peer in peers)
    yield "| --- |" + " ---: |" * len(peers)
    for text, comparison in rows:
        show = comparison.case.quantities[0].unit.text
        cells = [show(comparison.median(peer)) if comparison.values(peer) else "" for peer in peers]
        yield f"| {text} |" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def format_faster_peers(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield a list of the cases in which a peer is faster, and by how much."""
    for comparison in comparisons:
        for i, quantity in enumerate(comparison.case.quantities):
            ratios = {
                peer: comparison.times_better(peer, i) for peer in comparison.samples if peer not in (OURS.name, LIMIT)
            }
            ahead = {peer: 1 / ratio for peer, ratio in ratios.items() if ratio and 1 / ratio > AHEAD}
            if ahead:
                case = comparison.case
                name = ", ".join(
                    filter(None, [case.table, case.title, quantity.name if len(case.quantities) > 1 else ""])
                )
                peers = ", ".join(f"{peer} {format_ratio(times)} ×" for peer, times in ahead.items())
                yield f"- {case.section}, {name}: {peers}"


def with_summary(text: str, summary: Sequence[str]) -> str:
    """Return the text of README.md with this table between its marks."""
    begin, end = map(re.escape, MARKS)
    table = "\n".join([MARKS[0], *summary, MARKS[1]])
    changed, times = re.subn(f"{begin}.*?{end}", lambda _: table, text, flags=re.DOTALL)
    assert times == 1, f"README.md has {times} times {MARKS[0]}, and should have it once"
    return changed
