"""Results to the page: tables in Markdown, with the plots of `plots`.

A table has a row for each peer and a column for each quantity of each of its cases. A cell is the median of the rounds, the
smallest and the largest round, and how many times better ours is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from benchmarks.idle import BUSY_SHARE
from benchmarks.limits import RingTable
from benchmarks.peers import OURS, PEERS
from benchmarks.plots import draw_plots
from benchmarks.results import Circumstances
from benchmarks.rounds import LIMIT, Comparison
from benchmarks.targets import format_targets
from benchmarks.units import format_ratio, format_seconds

__all__ = ["draw_plots", "format_page", "format_table"]

INTRODUCTION = """\
Written by `make bench` (`python -m benchmarks`); do not edit. Each executor works in a process of its own, and they take
turns: in each round of a case each is opened, measured and closed before the next one is. A cell shows the median of the
rounds, in parentheses the smallest and the largest round, and in bold how many times better pympipool is (below 1:
worse). Ratios travel to other machines; times do not: `pympipool bench` measures yours, and says what to set there."""

TARGETS_TEXT = """\
What this project promises itself, and what this run reached."""

BUSY_TEXT = """\
**The machine was busy with other things while this was measured.** Times are longer than they need be, and ratios are not those
of a quiet machine: waiting by spinning does not find a core there, and a core that others keep awake answers a wake-up
sooner. Run `make bench` on a machine that does nothing else."""

EXPLANATIONS = {
    "Round trip": "One call at a time: from `submit` until `result` has returned, with one worker. The limit: a cache line"
    " that two spinning processes hand to and fro.",
    "Rate": "Calls per second that do nothing: all are submitted, then all results are taken. The limit: records of 64"
    " bytes through the ring, both sides spinning.",
    "Echo of bytes": "A call takes a value and returns it; the time there and back. The limit: two `memcpy` of this size.",
    "Echo of float64 arrays": "As above, and both sides write into the array that they got: where it arrives read-only, they"
    " have to copy it first.",
    "Efficiency": "The time spent inside the calls, measured there, as a share of wall time × workers. Calls compute where"
    " there are cores for them, and sleep where there are more workers than that. Time inside a call includes waiting for a core:"
    " where many workers share few cores, those who make their calls slow look busy.",
    "Start": "The time until the first result, of an executor that is made for it (in a program that has used one"
    " before); and calls that get a process of their own each.",
    "MPI functions": "One call at a time, which runs on all ranks of a worker and returns a list.",
    "Futures as arguments": "A chain, in which each call takes the future of the one before; and a call that takes the futures"
    " of 1000 others.",
    "Cost of waiting": "Memory of the master for each call that waits; processor time of executors that have nothing to do.",
}


def format_page(
    measured: Sequence[tuple[Comparison, Circumstances]],
    ring: tuple[RingTable, Circumstances] | None,
    plots: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
        measured: cases with their circumstances; those of a section follow each other.
        ring: the same of the ring alone; None where it was not measured.
        plots: section: the file to show, relative to the page.
    """
    all_circumstances = [circumstances for _, circumstances in measured] + ([ring[1]] if ring else [])
    comparisons = [comparison for comparison, _ in measured]
    lines = ["# Benchmarks", "", INTRODUCTION, "", *format_head(all_circumstances)]
    targets = list(format_targets(comparisons))
    if targets:
        lines += ["## Promises", "", TARGETS_TEXT, "", *targets, ""]
    for section, of_section in groupby(comparisons, key=lambda comparison: comparison.case.section):
        lines += [f"## {section}", ""]
        lines += [line for text in (EXPLANATIONS.get(section),) if text for line in (text, "")]
        lines += _image(section, plots)
        for table, of_table in groupby(of_section, key=lambda comparison: comparison.case.table):
            lines += [f"### {table[:1].upper()}{table[1:]}", ""] if table else []
            lines += [*format_table(list(of_table)), ""]
    if ring:
        lines += ["## The ring alone", "", *_image("The ring alone", plots), *format_ring(ring[0]), ""]
    lines += ["## When", "", *format_runs(measured, ring), ""]
    return "\n".join(lines).rstrip() + "\n"


def _image(section: str, plots: Mapping[str, str]) -> list[str]:
    return [f"![{section}]({plots[section]})", ""] if section in plots else []


def format_head(all_circumstances: Sequence[Circumstances]) -> Iterator[str]:
    """On what it was measured, as the newest of the results say."""
    if not all_circumstances:
        return
    ordered = sorted(all_circumstances, key=lambda circumstances: circumstances.date)
    newest = ordered[-1]
    busy = sorted(circumstances.busy for circumstances in ordered)
    first, last = (f"{one.date[:16].replace('T', ' ')}" for one in (ordered[0], newest))
    yield f"- **date**: {first} to {last} UTC"
    yield f"- **duration**: {sum(circumstances.duration_s for circumstances in ordered) / 60:.0f} minutes"
    yield (
        f"- **load of others**: {busy[len(busy) // 2]:.0%} of all cores in the median, {busy[-1]:.0%} at most, as seen"
        " before each case"
    )
    for name, text in newest.machine.items():
        yield f"- **{name}**: {text}"
    yield ""
    if busy[len(busy) // 2] > BUSY_SHARE:
        yield f"{BUSY_TEXT}\n"
    if any(circumstances.machine != newest.machine for circumstances in ordered):
        yield "Not all was measured in one run: see the last section.\n"


def format_table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """A table, and why peers are not in it."""
    columns = [(comparison, i) for comparison in comparisons for i in range(len(comparison.case.quantities))]
    yield "| |" + "".join(f" {_title(comparison, i)} |" for comparison, i in columns)
    yield "| --- |" + " ---: |" * len(columns)
    for name in [*(peer.name for peer in PEERS), LIMIT]:
        cells = [format_cell(comparison, name, i) for comparison, i in columns]
        if any(cells):
            shown = f"**{name}**" if name == OURS.name else name
            yield f"| {shown} |" + "".join(f" {cell or '–'} |" for cell in cells)
    yield ""
    absent: dict[str, dict[str, None]] = {}  # reason: peers, each once
    for comparison in comparisons:
        for peer, reason in comparison.absent.items():
            absent.setdefault(reason, {})[peer] = None
    if absent:
        groups = (f"{', '.join(peers)} ({reason})" for reason, peers in absent.items())
        yield f"Not measured, or not in all rounds: {'; '.join(groups)}."


def _title(comparison: Comparison, i: int) -> str:
    quantities = comparison.case.quantities
    return comparison.case.title if len(quantities) == 1 else f"{comparison.case.title}, {quantities[i].name}"


def format_cell(comparison: Comparison, name: str, i: int) -> str:
    """Median, spread and ratio; empty where nothing was measured."""
    values = comparison.values(name, i)
    if not values:
        return ""
    show = comparison.case.quantities[i].unit.text
    text = show(comparison.median(name, i))
    if len(set(values)) > 1:
        text += f" ({_shortest_range(show(min(values)), show(max(values)))})"
    times = comparison.times_better(name, i)
    if name == OURS.name or times is None:
        return text
    return f"{text} **{format_ratio(times)} ×**"


def _shortest_range(low: str, high: str) -> str:
    """Without the unit of the first where that of the second is the same."""
    number, _, unit = low.rpartition(" ")
    return f"{number} – {high}" if number and high.endswith(f" {unit}") else f"{low} – {high}"


def format_ring(ring: RingTable) -> Iterator[str]:
    """What the C core does without Python."""
    yield "Two processes that spin on two cores; each record is written on one side and read on the other."
    yield ""
    yield "| bytes of a record | there and back | stream, each | stream | memcpy, each | memcpy |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for size_bytes, there_and_back_ns, stream_ns, copy_ns in ring:
        times = (f"{format_seconds(ns * 1e-9)}" for ns in (there_and_back_ns, stream_ns, copy_ns))
        there_and_back, stream, copy = times
        speeds = [f"{size_bytes / ns:.3g} GB/s" for ns in (stream_ns, copy_ns)]
        yield f"| {size_bytes} | {there_and_back} | {stream} | {speeds[0]} | {copy} | {speeds[1]} |"


def format_runs(
    measured: Iterable[tuple[Comparison, Circumstances]], ring: tuple[RingTable, Circumstances] | None
) -> Iterator[str]:
    """Each case with its own date."""
    yield "| case | date, UTC | commit | rounds | took | others used |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    rows = [
        (comparison.case.name, max(map(len, comparison.samples.values()), default=0), circumstances)
        for comparison, circumstances in measured
    ]
    if ring:
        rows.append(("the ring alone", 5, ring[1]))
    for name, rounds, found in rows:
        date, commit = found.date[:16].replace("T", " "), found.machine["commit"]
        yield f"| {name} | {date} | {commit} | {rounds} | {found.duration_s:.0f} s | {found.busy:.0%} |"
