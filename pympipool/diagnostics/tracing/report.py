"""A `Summary` in words and tables, as `pympipool trace` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime

from pympipool._util.formatting import format_count, format_duration, format_share
from pympipool.diagnostics.tracing.findings import advise
from pympipool.diagnostics.tracing.summary import Distribution, ExecutorShare, Summary
from pympipool.diagnostics.tracing.timeline import Worker
from pympipool.diagnostics.tracing.utilization import Utilization

WIDTH = 100

ROWS_MAX = 12
"""Functions, and workers, of which there is a row each; the others are put together."""

STAGE_NAMES = {
    "pickling": "its arguments are pickled",
    "inputs": "waits for results of other calls",
    "worker": "waits for a worker",
    "start": "its process starts",
    "line": "waits behind another on its worker",
    "there": "on its way there",
    "run": "runs",
    "back": "its result on its way back",
    "overhead": "overhead: what is no work",
}

Rows = list[tuple[str, ...]]


def as_text(summary: Summary) -> str:
    """The whole report."""
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: Summary) -> Iterator[str]:
    timeline = summary.timeline
    begun = datetime.fromisoformat(timeline.begun)
    yield f"{format_duration(timeline.duration_ns)} on {begun:%Y-%m-%d at %H:%M:%S}, master on {timeline.host}"
    yield _of_calls(summary)
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
    findings = advise(summary)
    for finding in findings:
        yield from _wrapped(f"{_sentence(finding.what)}. {_sentence(finding.remedy)}.")
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
    """A table; its first row is the heads of the columns, of which the title takes the place of the first."""
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
    rows: Rows = [("", "calls", "median", "longest", "together")]
    for share in summary.functions[:ROWS_MAX]:
        times = (share.median_ns, share.longest_ns, share.total_ns)
        rows.append((_short(share.name), f"{share.calls}", *map(format_duration, times)))
    others = summary.functions[ROWS_MAX:]
    if others:
        total_ns = sum(share.total_ns for share in others)
        calls = sum(share.calls for share in others)
        rows.append((f"{len(others)} others", f"{calls}", "", "", format_duration(total_ns)))
    return rows


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}...{name[-19:]}"


def _stages(executor: ExecutorShare) -> Rows:
    rows: Rows = [("", "median", "95 % below", "longest", "together")]
    for stage, name in STAGE_NAMES.items():
        spread: Distribution = executor.stages[stage]
        if spread.count and (spread.longest_ns or stage == "run"):
            times = (spread.median_ns, spread.high_ns, spread.longest_ns, spread.total_ns)
            rows.append((name, *map(format_duration, times)))
    return rows


def _workers(shares: Sequence[Utilization]) -> Rows:
    rows: Rows = [
        ("", "calls", "lived", "busy", "started", "idle:", "calls on their way", "inputs missing", "no calls")
    ]
    shown = shares if len(shares) <= ROWS_MAX else shares[: ROWS_MAX - 1]
    rows += [_worker(share.name, [share]) for share in shown]
    if len(shown) < len(shares):
        rows.append(_worker(f"{len(shares) - len(shown)} others", shares[len(shown) :]))
    return rows


def _worker(name: str, shares: Sequence[Utilization]) -> tuple[str, ...]:
    life_ns = sum(share.life_ns for share in shares) or 1
    parts = (
        sum(share.busy_ns for share in shares),
        sum(share.starting_ns for share in shares),
        sum(share.idle_ns for share in shares),
        sum(share.idle_ready_ns for share in shares),
        sum(share.idle_blocked_ns for share in shares),
        sum(share.idle_empty_ns for share in shares),
    )
    calls = sum(share.calls for share in shares)
    return name, f"{calls}", format_duration(life_ns // len(shares)), *(format_share(part / life_ns) for part in parts)


def _longest(summary: Summary) -> Rows:
    hosts = {(worker.executor, worker.number): worker.host for worker in summary.timeline.workers}
    rows: Rows = [("", "ran", "began at", "call", "worker", "host")]
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
    shifted = {host: clock_uncertainty_ns for host, clock_offset_ns, clock_uncertainty_ns in clocks if clock_offset_ns}
    if shifted:
        clock_uncertainty_ns = max(shifted.values())
        yield ""
        yield from textwrap.wrap(
            f"The clocks of {', '.join(sorted(shifted))} were set by the times at which calls were sent and results received;"
            f" what was told there may be wrong by {format_duration(clock_uncertainty_ns)}.",
            WIDTH,
        )
