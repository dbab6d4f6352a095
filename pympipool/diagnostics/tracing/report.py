"""Format a `Summary` as text and tables, as `pympipool trace` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime

from pympipool._util.formatting import format_bytes, format_count, format_duration, format_share
from pympipool.diagnostics.tracing.findings import find_findings
from pympipool.diagnostics.tracing.summary import Distribution, ExecutorSummary, Summary
from pympipool.diagnostics.tracing.timeline import Worker
from pympipool.diagnostics.tracing.utilization import Utilization

WIDTH = 100

ROWS_MAX = 12
"""Maximum number of rows for functions, and for workers. The last row sums up all others."""

STAGE_NAMES = {
    "pickling": "its arguments are pickled",
    "inputs": "waits for results of other calls",
    "worker": "waits for a worker",
    "start": "its process starts",
    "queued": "waits behind another on its worker",
    "dispatch": "on its way to the worker",
    "run": "runs",
    "imports": "  of that: imports modules",
    "return": "its result on its way back",
    "overhead": "overhead: no function runs",
}

Rows = list[tuple[str, ...]]


def format_report(summary: Summary) -> str:
    """Return the whole report."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    timeline = summary.timeline
    start = datetime.fromisoformat(timeline.start_time)
    yield f"{format_duration(timeline.duration_ns)} on {start:%Y-%m-%d at %H:%M:%S}, master on {timeline.host}"
    yield _of_calls(summary)
    if timeline.shared_bytes:
        yield f"shared data: at most {format_bytes(timeline.shared_bytes)} at a time"
    if not summary.calls:
        return
    yield from _headed("Functions", _functions(summary))
    for executor in summary.executors:
        kind = "block allocation" if executor.is_block else "a process for each call"
        yield from ("", f"Executor {executor.number}: {kind}, max_workers={executor.max_workers}")
        yield from _headed("Where the time of a call goes", _stages(executor))
        yield from _headed("Workers" if executor.is_block else "Places for workers", _workers(executor.workers))
    yield from _headed("Longest calls", _longest(summary))
    yield from ("", "What to change")
    findings = find_findings(summary)
    for finding in findings:
        yield from _wrapped(f"{_sentence(finding.message)}. {_sentence(finding.remedy)}.")
    if not findings:
        yield from _wrapped("Nothing stands out.")
    yield from _clocks(timeline.workers)


def _of_calls(summary: Summary) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in summary.outcomes.items())
    text = format_count(summary.calls, "call")
    if summary.messages != summary.calls:
        text += f", in {format_count(summary.messages, 'message')} (map sends several at a time)"
    return f"{text}: {outcomes}" if outcomes else text


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  * ", subsequent_indent="    ")


def _headed(title: str, rows: Rows) -> Iterator[str]:
    """Yield the lines of a table.

    The first row has the heads of the columns; the title is the head of the first column.
    """
    head = (title, *rows[0][1:])
    table = [head, *(("  " + row[0], *row[1:]) for row in rows[1:])]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    yield ""
    for row in table:
        first, *others = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join([first, *others]).rstrip()


def _functions(summary: Summary) -> Rows:
    rows: Rows = [("", "calls", "median", "longest", "total", "imports", "arguments", "result")]
    for function in summary.functions[:ROWS_MAX]:
        times = (function.median_ns, function.longest_ns, function.total_ns)
        imports = format_duration(function.import_ns) if function.import_ns else ""
        sizes = [
            "" if size is None else format_bytes(size) for size in (function.argument_bytes, function.result_bytes)
        ]
        rows.append((_short(function.name), f"{function.calls}", *map(format_duration, times), imports, *sizes))
    others = summary.functions[ROWS_MAX:]
    if others:
        total_ns = sum(function.total_ns for function in others)
        calls = sum(function.calls for function in others)
        rows.append((f"{len(others)} others", f"{calls}", "", "", format_duration(total_ns), "", "", ""))
    return rows


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}...{name[-19:]}"


def _stages(executor: ExecutorSummary) -> Rows:
    rows: Rows = [("", "median", "95 % below", "longest", "total")]
    for stage, name in STAGE_NAMES.items():
        distribution: Distribution = executor.stages[stage]
        if distribution.count and (distribution.longest_ns or stage == "run"):
            times = (distribution.median_ns, distribution.high_ns, distribution.longest_ns, distribution.total_ns)
            rows.append((name, *map(format_duration, times)))
    return rows


def _workers(utilizations: Sequence[Utilization]) -> Rows:
    rows: Rows = [
        ("", "calls", "lived", "busy", "started", "idle:", "calls on their way", "inputs missing", "no calls")
    ]
    shown = utilizations if len(utilizations) <= ROWS_MAX else utilizations[: ROWS_MAX - 1]
    rows += [_worker(one.name, [one]) for one in shown]
    others = utilizations[len(shown) :]
    if others:
        rows.append(_worker(f"{len(others)} others", others))
    return rows


def _worker(name: str, utilizations: Sequence[Utilization]) -> tuple[str, ...]:
    life_ns = sum(one.life_ns for one in utilizations) or 1
    parts = (
        sum(one.busy_ns for one in utilizations),
        sum(one.starting_ns for one in utilizations),
        sum(one.idle_ns for one in utilizations),
        sum(one.idle_ready_ns for one in utilizations),
        sum(one.idle_blocked_ns for one in utilizations),
        sum(one.idle_empty_ns for one in utilizations),
    )
    calls = sum(one.calls for one in utilizations)
    return (
        name,
        f"{calls}",
        format_duration(life_ns // len(utilizations)),
        *(format_share(part / life_ns) for part in parts),
    )


def _longest(summary: Summary) -> Rows:
    hosts = {(worker.executor, worker.number): worker.host for worker in summary.timeline.workers}
    rows: Rows = [("", "ran", "started at", "call", "worker", "host")]
    for call in summary.longest:
        name = _short(call.name) + (f" ({call.size} of a map)" if call.size > 1 else "")
        times = (format_duration(call.run_ns), format_duration(call.started_ns or 0))
        rows.append((name, *times, f"{call.number}", f"{call.worker}", hosts.get((call.executor, call.worker), "?")))
    return rows


def _clocks(workers: Sequence[Worker]) -> Iterator[str]:
    clocks = [
        clock
        for worker in workers
        for clock in ((worker.host, worker.clock_offset_ns, worker.clock_uncertainty_ns), *worker.clocks)
    ]
    uncertainties = {host: uncertainty_ns for host, offset_ns, uncertainty_ns in clocks if offset_ns}
    if uncertainties:
        yield ""
        yield from textwrap.wrap(
            f"The clocks of {', '.join(sorted(uncertainties))} were corrected by the times at which calls were sent and results"
            f" received; times from there may be wrong by {format_duration(max(uncertainties.values()))}.",
            WIDTH,
        )
