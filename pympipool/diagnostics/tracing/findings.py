"""What the numbers of a trace mean, and what to change: each finding is a function that looks for one thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pympipool._util.formatting import format_count, format_duration, format_share
from pympipool.diagnostics.tracing.summary import ExecutorShare, Summary
from pympipool.diagnostics.tracing.timeline import FAILED, RAISED, UNFINISHED

WORTH_SAYING = 0.15
"""What takes a smaller part of the time is left alone."""

MANY_CALLS = 10
"""Of fewer calls nothing is concluded about calls in general."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        weight: The part of the time that it is about, for the order; 0 to 1.
        what: What is to be seen.
        remedy: What to do about it.
    """

    weight: float
    what: str
    remedy: str


def advise(summary: Summary) -> list[Finding]:
    """What may be changed, the most important first."""
    found = list(_about_calls(summary))
    for executor in summary.executors:
        of_it = f"executor {executor.number}: " if len(summary.executors) > 1 else ""
        for look in (_own_processes, _short_calls, _way, _pickling, _path, _empty, _tail, _full, _start, _ranks):
            found += (Finding(one.weight, of_it + one.what, one.remedy) for one in look(executor))
    return sorted(found, key=lambda one: -one.weight)


def _about_calls(summary: Summary) -> Iterator[Finding]:
    bad = summary.outcomes.get(RAISED, 0) + summary.outcomes.get(FAILED, 0)
    if bad:
        names = sorted({call.name for call in summary.timeline.calls if call.outcome in (RAISED, FAILED)})
        yield Finding(
            1.0,
            f"{format_count(bad, 'call')} of {summary.calls} ended without a result, of {', '.join(names[:3])}"
            + (" and others" if len(names) > 3 else ""),
            "look at what their futures raise",
        )
    if summary.outcomes.get(UNFINISHED):
        yield Finding(
            0.05,
            f"{format_count(summary.outcomes[UNFINISHED], 'call')} had not ended when the trace did",
            "let the trace end after the executor: `with pympipool.trace(...), Executor(...) as exe:`",
        )
    if summary.timeline.dropped:
        yield Finding(
            0.9,
            f"{format_count(summary.timeline.dropped, 'call')} ended after the last one that was recorded",
            "trace a shorter part of the program, or raise max_calls",
        )


def _own_processes(executor: ExecutorShare) -> Iterator[Finding]:
    start, run = executor.stages["start"], executor.stages["run"]
    if executor.is_block or start.count < MANY_CALLS or start.total_ns < WORTH_SAYING * (start.total_ns + run.total_ns):
        return
    yield Finding(
        start.total_ns / (start.total_ns + run.total_ns),
        f"each call has a process of its own, which takes {format_duration(start.median_ns)} to start (median), for"
        f" {format_duration(run.median_ns)} of work",
        "make the executor with block_allocation=True: its workers start once",
    )


def _short_calls(executor: ExecutorShare) -> Iterator[Finding]:
    if not executor.is_block:
        return
    overhead, run = executor.single["overhead"], executor.single["run"]
    if run.count < MANY_CALLS or overhead.median_ns < run.median_ns:
        return
    yield Finding(
        0.9,
        f"calls are short: half of them run for {format_duration(run.median_ns)} at most, and the way"
        f" there and back takes as long or longer ({format_duration(overhead.median_ns)}, median)",
        "use exe.map(), which sends many at a time, or let each call do more",
    )


def _way(executor: ExecutorShare) -> Iterator[Finding]:
    idle = executor.idle("idle_ready_ns")
    there, back = executor.stages["there"], executor.stages["back"]
    run = executor.stages["run"]
    if idle < WORTH_SAYING or run.median_ns < max(there.median_ns, back.median_ns) or not executor.is_block:
        return
    yield Finding(
        idle,
        f"workers were idle for {format_share(idle)} of their time although calls were ready: these were on their way"
        f" ({format_duration(there.median_ns)} there, {format_duration(back.median_ns)} back, median)",
        "send less with each call: load what they share with init_function, return only what is needed; and see that no other"
        " program needs the cores",
    )


def _pickling(executor: ExecutorShare) -> Iterator[Finding]:
    pickling = executor.stages["pickling"]
    share = pickling.total_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING or executor.idle("idle_empty_ns") < WORTH_SAYING:
        return
    yield Finding(
        share,
        f"pickling the arguments took {format_duration(pickling.total_ns)} of the program's own time, and workers had nothing to do"
        " meanwhile",
        "pass arrays (they are not copied piece by piece) or names of files instead of many small objects; load what all calls"
        " share with init_function",
    )


def _path(executor: ExecutorShare) -> Iterator[Finding]:
    share = executor.path_ns / executor.span_ns if executor.span_ns else 0.0
    if share < 0.5 or executor.idle() < WORTH_SAYING:
        return
    names = " → ".join(call.name for call in executor.path[:4]) + (" → ..." if len(executor.path) > 4 else "")
    what = (
        f"{len(executor.path)} calls, each of which needs the result of the one before ({names}), ran for"
        f" {format_duration(executor.path_ns)} of {format_duration(executor.span_ns)}: no number of workers can be faster than that"
    )
    remedy = "shorten these calls, or let more of the work not wait for them"
    waited_ns = sum((call.started_ns or 0) - (call.ready_ns or 0) for call in executor.path)
    if waited_ns > WORTH_SAYING * executor.span_ns:
        what += f", and they waited for workers for {format_duration(waited_ns)} besides"
        remedy = "submit the calls first that begin the longest chains, or shorten them"
    yield Finding(executor.idle("idle_blocked_ns"), what, remedy)


def _empty(executor: ExecutorShare) -> Iterator[Finding]:
    idle = executor.idle("idle_empty_ns")
    tail = executor.tail_ns / executor.span_ns if executor.span_ns else 0.0
    if idle - tail < WORTH_SAYING:
        return
    yield Finding(
        idle - tail,
        f"for {format_share(idle)} of the workers' time there was no call to run",
        "submit calls before doing anything else, and look at results as they come (as_completed) rather than after each call;"
        " or use fewer workers",
    )


def _tail(executor: ExecutorShare) -> Iterator[Finding]:
    share = executor.tail_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING or executor.path_ns > executor.span_ns / 2:
        return
    yield Finding(
        share,
        f"for the last {format_duration(executor.tail_ns)} of {format_duration(executor.span_ns)}, less than half of"
        " the workers had something to do",
        "submit the longest calls first, or cut them into smaller ones",
    )


def _full(executor: ExecutorShare) -> Iterator[Finding]:
    busy_ns = sum(worker.busy_ns for worker in executor.workers)
    life_ns = sum(worker.life_ns - worker.starting_ns for worker in executor.workers)
    waits, run = executor.stages["worker"], executor.stages["run"]
    if not life_ns or busy_ns < 0.85 * life_ns or waits.median_ns < run.median_ns:
        return
    yield Finding(
        0.1,
        f"workers were busy for {format_share(busy_ns / life_ns)} of their time, and up to"
        f" {format_count(executor.queue_max, 'call')} waited for one of them",
        "this is as fast as these workers can be; more cores would make it faster",
    )


def _start(executor: ExecutorShare) -> Iterator[Finding]:
    if not executor.is_block or not executor.workers:
        return
    starting_ns = sum(worker.starting_ns for worker in executor.workers) / len(executor.workers)
    share = starting_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING:
        return
    yield Finding(
        share,
        f"workers took {format_duration(starting_ns)} to start, of {format_duration(executor.span_ns)} altogether",
        "make the executor once, as early as possible, and use it for everything",
    )


def _ranks(executor: ExecutorShare) -> Iterator[Finding]:
    if executor.ranks_wait < WORTH_SAYING:
        return
    yield Finding(
        executor.ranks_wait,
        f"ranks of MPI workers waited for the slowest one for {format_share(executor.ranks_wait)} of their time",
        "share the work out more evenly between the ranks, or use fewer cores_per_worker",
    )
