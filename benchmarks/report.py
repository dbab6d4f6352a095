"""Writes the page from the results: tables in Markdown, with the plots of `plots`.

A table has a row for each peer and a column for each quantity of each case. A cell shows the median of the rounds, the
smallest and the largest round, and how many times better pympipool is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from benchmarks.idle import BUSY_SHARE
from benchmarks.limits import RingTable
from benchmarks.peers import OURS, PEERS
from benchmarks.plots import draw_plots
from benchmarks.results import Conditions
from benchmarks.rounds import LIMIT, Comparison
from benchmarks.summary import format_faster_peers, format_summary
from benchmarks.targets import format_targets
from benchmarks.units import format_ratio, format_seconds

__all__ = ["draw_plots", "format_page", "format_table"]

INTRODUCTION = """\
How long does a call take, compared with other executors? Expect similar ratios on other machines, but not the same
times: `pympipool bench` measures your machine, and recommends settings for it. Times are those of the overhead: if your
calls take seconds, any executor will do."""

METHOD = """\
`make bench` (`python -m benchmarks`) writes this page; do not edit it. Each executor is measured in a separate process,
and the executors take turns: in each round of a case, each executor is opened, measured and closed before the next one
is opened. A cell shows the median of the rounds, in parentheses the smallest and the largest round, and in bold how
many times better pympipool is (below 1: worse)."""

FASTER_TEXT = """\
The cases in which another executor was faster in this run, and how many times. The sections below give the reasons."""

TARGETS_TEXT = """\
The ratios that pympipool is meant to reach, and the ratios of this run."""

BUSY_TEXT = """\
**Other programs used the machine during this run.** Times are longer than on an idle machine, and ratios differ
too: a thread that waits by spinning may find no free core, and a core that other programs keep awake reacts to a
wake-up sooner. Run `make bench` on an idle machine."""

EXPLANATIONS = {
    "Round trip": "One call at a time, with one worker: the time from `submit` until `result` returns. The limit: two"
    " spinning processes pass a cache line back and forth.",
    "Rate": "Calls per second. The calls do nothing; all are submitted, then all results are fetched. The limit:"
    " records of 64 bytes through the ring, while both sides spin.",
    "Echo of bytes": "A call takes a value and returns it; the time of the round trip. The limit: two `memcpy` of this"
    " size.",
    "Echo of float64 arrays": "A call takes an array and returns it; the time of the round trip. Both sides write into"
    " the array that they received: if it arrives read-only, they have to copy it first. The limit: two `memcpy` of"
    " this size.",
    "Efficiency": "The time spent inside the calls, measured in the calls, as a share of wall time × workers. Calls"
    " compute if there is a core for each worker, and sleep if there are more workers. Time inside a call includes"
    " waiting for a core: if many workers share few cores, an executor that slows down its calls looks efficient.",
    "Start": "The time from the creation of an executor until its first result, in a program that has used such an"
    " executor before; and the time of a call that runs in a process started for it. Pool and ProcessPoolExecutor fork"
    " the program, which is not safe with threads and MPI; workers of pympipool are fresh processes.",
    "MPI functions": "One call at a time. It runs on all ranks of a worker and returns a list.",
    "Real payloads": "What programs send and return: the time of a call of many, with two workers. ThreadPoolExecutor sends"
    " nothing, as its calls run in the script itself. Where another process-based"
    " executor may be ahead, the reasons are these. *Row of a frame*: each row is pickled by itself, so that no"
    " call sees what another one does to an index that all rows share; the others pickle that index once for"
    " each chunk, and the calls of a chunk share it. *Bound method, dataclass*: before each call the worker"
    " compares the class with what was sent, as a call before may have changed it. *int through `map`*: the"
    " first batches are small, since nothing is known yet about the run time of the calls; Pool divides the"
    " calls evenly at once, however long they run. *joblib*: its loops poll for results every 10 ms, and double"
    " the size of their batches from one call on, which is most of the time of a short loop. Our workers are no"
    " forks of the script, and import joblib before their first call, so that fewer calls fit into the time of"
    " a sample.",
    "Shared data": "Each of 1000 calls on two workers reads one row of an array of 80 MB, each time another row. The time"
    " without what sends the array, and the rate as a share of that of 1000 no-op calls of the same executor. Each executor"
    " sends the array once, as its documentation says: pympipool `share`; Pool, ProcessPoolExecutor, loky and mpi4py an"
    " `initializer` that sets a global, which the workers of the first two inherit by fork; mpire `shared_objects`, which"
    " they inherit, too; executorlib `init_function`; dask `scatter(broadcast=True)`; ray `put`; joblib a memmap of a file"
    " that `joblib.dump` has written. *Rows written in place*: each of 2000 calls on two workers writes a row of 80 kB of a"
    " `shared_array` of 160 MB; compared with calls that return such a row, which the script copies into an array.",
    "Futures as arguments": "A chain, in which each call takes the future of the call before it; and a call that takes"
    " the futures of 1000 other calls.",
    "Cost of waiting": "Memory of the master for each pending call; CPU time of idle executors.",
}


def format_page(
    measured: Sequence[tuple[Comparison, Conditions]],
    ring: tuple[RingTable, Conditions] | None,
    plots: Mapping[str, str],
) -> str:
    """Return the whole page.

    Args:
        measured: comparisons with their conditions; the cases of a section follow each other.
        ring: measurement of the ring alone with its conditions; None if it was not measured.
        plots: the file of each section's plot, relative to the page.
    """
    all_conditions = [conditions for _, conditions in measured] + ([ring[1]] if ring else [])
    comparisons = [comparison for comparison, _ in measured]
    lines = ["# Benchmarks", "", INTRODUCTION, "", *format_summary(comparisons), ""]
    faster = list(format_faster_peers(comparisons))
    if faster:
        lines += ["## Where others are faster", "", FASTER_TEXT, "", *faster, ""]
    lines += ["## How it is measured", "", METHOD, "", *format_head(all_conditions)]
    for section, of_section in groupby(comparisons, key=lambda comparison: comparison.case.section):
        lines += [f"## {section}", ""]
        lines += [line for text in (EXPLANATIONS.get(section),) if text for line in (text, "")]
        lines += _image(section, plots)
        for table, of_table in groupby(of_section, key=lambda comparison: comparison.case.table):
            lines += [f"### {table[:1].upper()}{table[1:]}", ""] if table else []
            lines += [*format_table(list(of_table)), ""]
    if ring:
        lines += ["## The ring alone", "", *_image("The ring alone", plots), *format_ring(ring[0]), ""]
    targets = list(format_targets(comparisons))
    if targets:
        lines += ["## Targets", "", TARGETS_TEXT, "", *targets, ""]
    lines += ["## Dates of the measurements", "", *format_runs(measured, ring), ""]
    return "\n".join(lines).rstrip() + "\n"


def _image(section: str, plots: Mapping[str, str]) -> list[str]:
    return [f"![{section}]({plots[section]})", ""] if section in plots else []


def format_head(all_conditions: Sequence[Conditions]) -> Iterator[str]:
    """Yield the description of the machine, taken from the newest result, and the range of dates."""
    if not all_conditions:
        return
    ordered = sorted(all_conditions, key=lambda conditions: conditions.date)
    newest = ordered[-1]
    busy = sorted(conditions.busy for conditions in ordered)
    first, last = (f"{one.date[:16].replace('T', ' ')}" for one in (ordered[0], newest))
    yield f"- **date**: {first} to {last} UTC"
    yield f"- **duration**: {sum(conditions.duration_s for conditions in ordered) / 60:.0f} minutes"
    yield (
        f"- **load of other programs**: {busy[len(busy) // 2]:.0%} of all cores in the median, {busy[-1]:.0%} at most,"
        " measured before each case"
    )
    for name, text in newest.machine.items():
        yield f"- **{name}**: {text}"
    yield ""
    if busy[len(busy) // 2] > BUSY_SHARE:
        yield f"{BUSY_TEXT}\n"
    if any(conditions.machine != newest.machine for conditions in ordered):
        yield "The cases were measured in several runs: see the last section.\n"


def format_table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield a table, and the reasons why peers are not in it."""
    columns = [(comparison, i) for comparison in comparisons for i in range(len(comparison.case.quantities))]
    yield "| |" + "".join(f" {_title(comparison, i)} |" for comparison, i in columns)
    yield "| --- |" + " ---: |" * len(columns)
    for name in [*(peer.name for peer in PEERS), LIMIT]:
        cells = [format_cell(comparison, name, i) for comparison, i in columns]
        if any(cells):
            shown = f"**{name}**" if name == OURS.name else name
            yield f"| {shown} |" + "".join(f" {cell or '–'} |" for cell in cells)
    yield ""
    not_measured: dict[str, dict[str, None]] = {}  # reason -> peers; the inner dict serves as an ordered set
    for comparison in comparisons:
        for peer, reason in comparison.not_measured.items():
            not_measured.setdefault(reason, {})[peer] = None
    if not_measured:
        groups = (f"{', '.join(peers)} ({reason})" for reason, peers in not_measured.items())
        yield f"Not measured, or not in all rounds: {'; '.join(groups)}."


def _title(comparison: Comparison, i: int) -> str:
    quantities = comparison.case.quantities
    return comparison.case.title if len(quantities) == 1 else f"{comparison.case.title}, {quantities[i].name}"


def format_cell(comparison: Comparison, name: str, i: int) -> str:
    """Return median, spread and ratio, or "" if nothing was measured."""
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
    """Return "low – high". If both have the same unit, it is shown once."""
    number, _, unit = low.rpartition(" ")
    return f"{number} – {high}" if number and high.endswith(f" {unit}") else f"{low} – {high}"


def format_ring(ring: RingTable) -> Iterator[str]:
    """Yield the table of the ring, which is measured without Python."""
    yield "Two processes spin on two cores. One side writes each record, and the other side reads it."
    yield ""
    yield "| bytes of a record | round trip | stream, per record | stream | memcpy, per record | memcpy |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for size_bytes, round_trip_ns, stream_ns, copy_ns in ring:
        times = (f"{format_seconds(ns * 1e-9)}" for ns in (round_trip_ns, stream_ns, copy_ns))
        round_trip, stream, copy = times
        speeds = [f"{size_bytes / ns:.3g} GB/s" for ns in (stream_ns, copy_ns)]
        yield f"| {size_bytes} | {round_trip} | {stream} | {speeds[0]} | {copy} | {speeds[1]} |"


def format_runs(
    measured: Iterable[tuple[Comparison, Conditions]], ring: tuple[RingTable, Conditions] | None
) -> Iterator[str]:
    """Yield the table of dates, with a row for each case."""
    yield "| case | date, UTC | commit | rounds | duration | load of other programs |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    rows = [
        (comparison.case.name, max(map(len, comparison.samples.values()), default=0), conditions)
        for comparison, conditions in measured
    ]
    if ring:
        rows.append(("the ring alone", 5, ring[1]))
    for name, rounds, conditions in rows:
        date, commit = conditions.date[:16].replace("T", " "), conditions.machine["commit"]
        yield f"| {name} | {date} | {commit} | {rounds} | {conditions.duration_s:.0f} s | {conditions.busy:.0%} |"
