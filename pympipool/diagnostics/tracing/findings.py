"""Conclude from the numbers of a trace what to change. Each function here looks for one thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pympipool._util.formatting import format_bytes, format_count, format_duration, format_share
from pympipool.diagnostics.tracing.summary import ExecutorSummary, Summary
from pympipool.diagnostics.tracing.timeline import ERROR, LOST, UNFINISHED
from pympipool.execution.large_payloads import LARGE_BYTES, REMEDY

WORTH_SAYING = 0.15
"""Smallest share of the time that is reported."""

MANY_CALLS = 10
"""Smallest number of calls from which anything is concluded about calls in general."""


OTHERS = "others"
"""Name under which a worker reports all packages of a call beyond the first few (see `_core/import_times.pyx`)."""

PACKAGES_MAX = 3
"""Largest number of packages that a finding names."""

LARGE_MESSAGES_MIN = 3
"""Smallest number of messages with large data that is reported: data must travel at least once."""


@dataclass(frozen=True)
class Finding:
    """One observation, with a remedy.

    Attributes:
        weight: Share of the time that it is about, 0 to 1; findings are sorted by it.
        message: The observation.
        remedy: The change that helps.
    """

    weight: float
    message: str
    remedy: str


def find_findings(summary: Summary) -> list[Finding]:
    """Return the findings for a trace, the most important first."""
    found = [*_about_calls(summary), *_large_data(summary)]
    for executor in summary.executors:
        prefix = f"executor {executor.number}: " if len(summary.executors) > 1 else ""
        for find in (
            _own_processes,
            _imports,
            _short_calls,
            _transfer,
            _pickling,
            _critical_path,
            _no_calls,
            _tail,
            _fully_used,
            _slow_start,
            _uneven_ranks,
        ):
            found += (replace(finding, message=prefix + finding.message) for finding in find(executor))
    return sorted(found, key=lambda finding: -finding.weight)


def _about_calls(summary: Summary) -> Iterator[Finding]:
    unanswered = summary.outcomes.get(ERROR, 0) + summary.outcomes.get(LOST, 0)
    if unanswered:
        names = sorted({call.name for call in summary.timeline.calls if call.outcome in (ERROR, LOST)})
        yield Finding(
            1.0,
            f"{format_count(unanswered, 'call')} of {summary.calls} ended without a result, of {', '.join(names[:3])}"
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


def _own_processes(executor: ExecutorSummary) -> Iterator[Finding]:
    start, run = executor.stages["start"], executor.stages["run"]
    if executor.is_block or start.count < MANY_CALLS or start.total_ns < WORTH_SAYING * (start.total_ns + run.total_ns):
        return
    yield Finding(
        start.total_ns / (start.total_ns + run.total_ns),
        f"each call has a process of its own, which takes {format_duration(start.median_ns)} to start (median), for"
        f" {format_duration(run.median_ns)} of work",
        "create the executor with block_allocation=True: its workers start once",
    )


def _imports(executor: ExecutorSummary) -> Iterator[Finding]:
    """Look at the later calls: of modules that are imported once, nothing is left to gain."""
    imports_ns = sum(executor.late_imports_ns.values())
    if imports_ns <= WORTH_SAYING * executor.late_run_ns:
        return
    packages = [name for name in executor.late_imports_ns if name != OTHERS][:PACKAGES_MAX]
    yield Finding(
        imports_ns / executor.late_run_ns,
        f"calls import modules again and again ({', '.join(packages)}): for {format_share(imports_ns / executor.late_run_ns)} of"
        " the time that the later half of them ran",
        _import_remedy(executor, packages),
    )


def _import_remedy(executor: ExecutorSummary, packages: Sequence[str]) -> str:
    if executor.is_block:
        return "let each worker run more calls (max_tasks_per_child), or use fewer workers: each of them imports once"
    block = "create the executor with block_allocation=True: its workers import once"
    info = executor.info
    is_forked = info.get("cores_per_worker") == 1 and info.get("backend") == "mpi" and info.get("mp_context") != "spawn"
    preload = info.get("preload") or ()
    if not is_forked or set(packages) <= set(preload):
        return block
    named = ", ".join(f'"{name}"' for name in dict.fromkeys([*preload, *packages]))
    return f"import them once, before the processes of calls are forked, with preload=[{named}]; or {block}"


def _large_data(summary: Summary) -> Iterator[Finding]:
    for function in summary.functions:
        if function.messages < LARGE_MESSAGES_MIN:
            continue
        for size_bytes, verb, remedy in (
            (
                function.argument_bytes,
                "carries",
                f"if it is the same data each time, {REMEDY}; or send the name of a file",
            ),
            (
                function.result_bytes,
                "returns",
                "return only what is needed, or save it and return the name of the file",
            ),
        ):
            if size_bytes is not None and size_bytes >= LARGE_BYTES:
                calls = format_count(function.calls, "call")
                yield Finding(
                    0.5, f"each call of {function.name}() {verb} {format_bytes(size_bytes)} ({calls})", remedy
                )


def _short_calls(executor: ExecutorSummary) -> Iterator[Finding]:
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


def _transfer(executor: ExecutorSummary) -> Iterator[Finding]:
    idle = executor.idle("idle_ready_ns")
    dispatch, back = executor.stages["dispatch"], executor.stages["return"]
    run = executor.stages["run"]
    if idle < WORTH_SAYING or run.median_ns < max(dispatch.median_ns, back.median_ns) or not executor.is_block:
        return
    yield Finding(
        idle,
        f"workers were idle for {format_share(idle)} of their time although calls were ready: these were on their way"
        f" ({format_duration(dispatch.median_ns)} there, {format_duration(back.median_ns)} back, median)",
        "send less with each call: share what many calls need (pympipool.share), return only what is needed; and check that no"
        " other program"
        " uses the cores",
    )


def _pickling(executor: ExecutorSummary) -> Iterator[Finding]:
    pickling = executor.stages["pickling"]
    share = pickling.total_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING or executor.idle("idle_empty_ns") < WORTH_SAYING:
        return
    yield Finding(
        share,
        f"pickling the arguments took {format_duration(pickling.total_ns)} of the program's own time, and workers had nothing to do"
        " meanwhile",
        "pass arrays (they are not pickled element by element) or file names instead of many small objects; load what all calls"
        " share with init_function",
    )


def _critical_path(executor: ExecutorSummary) -> Iterator[Finding]:
    share = executor.path_ns / executor.span_ns if executor.span_ns else 0.0
    if share < 0.5 or executor.idle() < WORTH_SAYING:
        return
    names = " → ".join(call.name for call in executor.path[:4]) + (" → ..." if len(executor.path) > 4 else "")
    message = (
        f"{len(executor.path)} calls, each of which needs the result of the one before ({names}), ran for"
        f" {format_duration(executor.path_ns)} of {format_duration(executor.span_ns)}: no number of workers makes this faster"
    )
    remedy = "shorten these calls, or make less of the work wait for them"
    waited_ns = sum((call.started_ns or 0) - (call.ready_ns or 0) for call in executor.path)
    if waited_ns > WORTH_SAYING * executor.span_ns:
        message += f", and they also waited for workers for {format_duration(waited_ns)}"
        remedy = "submit the calls that start the longest chains first, or shorten them"
    yield Finding(executor.idle("idle_blocked_ns"), message, remedy)


def _no_calls(executor: ExecutorSummary) -> Iterator[Finding]:
    idle = executor.idle("idle_empty_ns")
    tail = executor.tail_ns / executor.span_ns if executor.span_ns else 0.0
    if idle - tail < WORTH_SAYING:
        return
    yield Finding(
        idle - tail,
        f"for {format_share(idle)} of the workers' time there was no call to run",
        "submit calls before doing anything else, and take results as they come (as_completed) rather than after each call;"
        " or use fewer workers",
    )


def _tail(executor: ExecutorSummary) -> Iterator[Finding]:
    share = executor.tail_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING or executor.path_ns > executor.span_ns / 2:
        return
    yield Finding(
        share,
        f"for the last {format_duration(executor.tail_ns)} of {format_duration(executor.span_ns)}, less than half of"
        " the workers had something to do",
        "submit the longest calls first, or cut them into smaller ones",
    )


def _fully_used(executor: ExecutorSummary) -> Iterator[Finding]:
    busy_ns = sum(worker.busy_ns for worker in executor.workers)
    life_ns = sum(worker.life_ns - worker.starting_ns for worker in executor.workers)
    waits, run = executor.stages["worker"], executor.stages["run"]
    if not life_ns or busy_ns < 0.85 * life_ns or waits.median_ns < run.median_ns:
        return
    yield Finding(
        0.1,
        f"workers were busy for {format_share(busy_ns / life_ns)} of their time, and up to"
        f" {format_count(executor.queue_max, 'call')} waited for one of them",
        "these workers cannot be faster; more cores would help",
    )


def _slow_start(executor: ExecutorSummary) -> Iterator[Finding]:
    if not executor.is_block or not executor.workers:
        return
    starting_ns = sum(worker.starting_ns for worker in executor.workers) / len(executor.workers)
    share = starting_ns / executor.span_ns if executor.span_ns else 0.0
    if share < WORTH_SAYING:
        return
    yield Finding(
        share,
        f"workers took {format_duration(starting_ns)} to start, of {format_duration(executor.span_ns)} in total",
        "create one executor as early as possible, and use it for everything",
    )


def _uneven_ranks(executor: ExecutorSummary) -> Iterator[Finding]:
    if executor.ranks_wait < WORTH_SAYING:
        return
    yield Finding(
        executor.ranks_wait,
        f"ranks of MPI workers waited for the slowest one for {format_share(executor.ranks_wait)} of their time",
        "distribute the work more evenly among the ranks, or use fewer cores_per_worker",
    )
