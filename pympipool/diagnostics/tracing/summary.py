"""Summarize a trace in numbers: where the time of calls and workers went.

    submitted ── ready ── sent ─── started ── ended ── received
        │ inputs,  │ worker, │ queued,  │ run     │ return
        │ pickling │ start   │ dispatch │         │

Nothing here prints: `pympipool.diagnostics.tracing.report` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pympipool.diagnostics.tracing.timeline import Call, Timeline
from pympipool.diagnostics.tracing.utilization import Utilization, work_span, worker_utilizations

LONGEST = 5
"""Number of the longest calls that a summary names."""

STAGES = ("inputs", "pickling", "worker", "start", "queued", "dispatch", "run", "imports", "return", "overhead")
"""Stages of a call.

inputs: it waits for the results of other calls.
pickling: its arguments are pickled.
worker: it waits for a worker.
start: its process starts (without block allocation).
queued: it was sent to a worker, and waits there until the call before it has ended.
dispatch: it is on its way to the worker.
run: it runs.
imports: the part of that in which it imports modules. Only calls that do are counted.
return: its result is on its way back.
overhead: the sum of the stages in which no function runs: pickling, start, dispatch, return.
"""


@dataclass(frozen=True)
class Distribution:
    """The distribution of a set of times, in ns: 95 % of the times are below high_ns."""

    count: int = 0
    total_ns: int = 0
    median_ns: int = 0
    high_ns: int = 0
    longest_ns: int = 0

    @classmethod
    def of(cls, times_ns: Iterable[int]) -> Distribution:
        """Make the distribution of times."""
        ordered = sorted(times_ns)
        if not ordered:
            return cls()
        count = len(ordered)
        return cls(count, sum(ordered), ordered[count // 2], ordered[min(count * 95 // 100, count - 1)], ordered[-1])


@dataclass(frozen=True)
class FunctionSummary:
    """The calls of one function that ran.

    Run time and sizes of a message of several calls are shared out evenly among them.

    Attributes:
        argument_bytes, result_bytes: Median size of what was sent and received for a call; None in traces of earlier versions.
        import_ns: Time in which its calls imported modules, in total.
    """

    name: str
    calls: int
    messages: int
    total_ns: int
    median_ns: int
    longest_ns: int
    argument_bytes: int | None
    result_bytes: int | None
    import_ns: int


@dataclass(frozen=True)
class ExecutorSummary:
    """The calls and workers of one executor.

    Attributes:
        number: Number of the executor.
        is_block: True with block allocation.
        max_workers: Its parameter of that name.
        span_ns: Time from the first submission to the last end of a call.
        stages: Times of its calls in each of the `STAGES`.
        single: The same for calls that were submitted one by one, not packed by a map.
        workers: Utilization of each worker, or of each place for a worker without block allocation.
        path: The critical path: of all chains of calls that needed each other's results, the chain that ran longest.
        path_ns: Sum of the run times on that path.
        tail_ns: Time at the end in which less than half of its workers ran calls.
        queue_max: Maximum number of calls that were ready at the same time and not started.
        ranks_wait: Share of the time of MPI workers in which ranks waited for the slowest rank.
        info: Its parameters.
        late_run_ns: Run time of the later half of its calls. The first calls of workers import what is imported once.
        late_imports_ns: Packages that these calls imported, each with the time that took.
    """

    number: int
    is_block: bool
    max_workers: int
    span_ns: int
    stages: dict[str, Distribution]
    single: dict[str, Distribution]
    workers: list[Utilization]
    path: tuple[Call, ...]
    path_ns: int
    tail_ns: int
    queue_max: int
    ranks_wait: float
    info: dict[str, Any]
    late_run_ns: int
    late_imports_ns: dict[str, int]

    def idle(self, reason: str = "idle_ns") -> float:
        """Return the share of its workers' lives in which they were idle, in total or for one reason of `Utilization`."""
        life_ns = sum(worker.life_ns for worker in self.workers)
        return sum(getattr(worker, reason) for worker in self.workers) / life_ns if life_ns else 0.0


@dataclass(frozen=True)
class Summary:
    """The summary of a trace.

    Attributes:
        timeline: The trace.
        calls: Number of calls; calls of a map count one by one.
        messages: Number of messages; calls of a map that travelled together count as one.
        outcomes: Number of calls for each outcome.
        functions: The functions, in descending order of their total run time.
        executors: The executors that had calls.
        longest: The calls that ran longest.
    """

    timeline: Timeline
    calls: int
    messages: int
    outcomes: dict[str, int]
    functions: list[FunctionSummary]
    executors: list[ExecutorSummary]
    longest: list[Call]


def summarize(timeline: Timeline) -> Summary:
    """Summarize a trace."""
    calls = timeline.calls
    outcomes: Counter[str] = Counter()
    used = {call.executor for call in calls}
    for call in calls:
        outcomes[call.outcome] += call.size
    return Summary(
        timeline,
        sum(call.size for call in calls),
        len(calls),
        dict(outcomes.most_common()),
        _functions(calls),
        [_of_executor(timeline, executor.number) for executor in timeline.executors if executor.number in used],
        sorted((call for call in calls if call.run_ns), key=lambda call: -call.run_ns)[:LONGEST],
    )


def _functions(calls: Sequence[Call]) -> list[FunctionSummary]:
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        if call.ended_ns is not None:
            by_name.setdefault(call.name, []).append(call)
    functions = []
    for name, own in by_name.items():
        each = Distribution.of(call.run_ns // call.size for call in own)
        total_ns = sum(call.run_ns for call in own)
        count = sum(call.size for call in own)
        functions.append(
            FunctionSummary(
                name,
                count,
                len(own),
                total_ns,
                each.median_ns,
                each.longest_ns,
                _median_size((call.argument_bytes, call.size) for call in own),
                _median_size((call.result_bytes, call.size) for call in own),
                sum(call.import_ns for call in own),
            )
        )
    return sorted(functions, key=lambda function: -function.total_ns)


def _median_size(sizes: Iterable[tuple[int | None, int]]) -> int | None:
    """Return the median size of a call, from the bytes and the number of calls of each message."""
    known = sorted(size_bytes // count for size_bytes, count in sizes if size_bytes is not None)
    return known[len(known) // 2] if known else None


def _of_executor(timeline: Timeline, number: int) -> ExecutorSummary:
    executor = timeline.executors[number - 1]
    calls = [call for call in timeline.calls if call.executor == number]
    workers = [one for one in worker_utilizations(timeline) if one.executor == number]
    begin_ns, end_ns = work_span(calls, timeline.duration_ns)
    path = longest_path(calls)
    packed = {call.name for call in calls if call.size > 1}
    every, single = _stages(timeline, number, calls, packed)
    late_calls = sorted((call for call in calls if call.ended_ns is not None), key=lambda call: call.started_ns or 0)
    late_calls = late_calls[len(late_calls) // 2 :]
    late_imports: Counter[str] = Counter()
    for call in late_calls:
        late_imports.update(call.imports_ns)
    return ExecutorSummary(
        number,
        executor.is_block,
        executor.info.get("max_workers", len(workers)),
        end_ns - begin_ns,
        every,
        single,
        workers,
        path,
        sum(call.run_ns for call in path),
        _tail_ns(calls, len(workers)),
        _queue_max(calls),
        _ranks_wait(calls),
        executor.info,
        sum(call.run_ns for call in late_calls),
        dict(late_imports.most_common()),
    )


# ---- stages ----


def _stages(
    timeline: Timeline, executor: int, calls: Sequence[Call], packed: set[str]
) -> tuple[dict[str, Distribution], dict[str, Distribution]]:
    """Return the distributions of all calls, and of the calls whose functions no map has packed."""
    every: dict[str, list[int]] = {name: [] for name in STAGES}
    single: dict[str, list[int]] = {name: [] for name in STAGES}
    is_block = timeline.executors[executor - 1].is_block
    workers = {worker.number: worker for worker in timeline.workers if worker.executor == executor}
    answered = [call for call in calls if call.ended_ns is not None]
    answered.sort(key=lambda call: (call.worker, call.started_ns or 0))
    before: Call | None = None
    for call in answered:
        assert call.ready_ns is not None
        assert call.sent_ns is not None
        assert call.started_ns is not None
        assert call.ended_ns is not None
        assert call.received_ns is not None
        free_ns = before.ended_ns if before is not None and before.worker == call.worker else None
        before = call
        until_ready_ns = call.ready_ns - call.submitted_ns
        start_ns = 0
        if not is_block and call.worker in workers:
            worker = workers[call.worker]
            start_ns = max(min(call.sent_ns, worker.ready_ns) - max(worker.started_ns, call.ready_ns), 0)
        queued_ns = max(min(free_ns or 0, call.started_ns) - call.sent_ns, 0)
        dispatch_ns = call.started_ns - call.sent_ns - queued_ns
        return_ns = call.received_ns - call.ended_ns
        pickling_ns = 0 if call.inputs is not None else until_ready_ns
        took = {
            "inputs" if call.inputs is not None else "pickling": until_ready_ns,
            "worker": max(call.sent_ns - call.ready_ns - start_ns, 0),
            "queued": queued_ns,
            "dispatch": dispatch_ns,
            "run": call.run_ns,
            "return": return_ns,
            "overhead": pickling_ns + start_ns + dispatch_ns + return_ns,
        }
        if not is_block:
            took["start"] = start_ns
        if call.import_ns:
            took["imports"] = call.import_ns
        for times in (every,) if call.name in packed else (every, single):
            for name, time_ns in took.items():
                times[name].append(time_ns)
    return _distributions(every), _distributions(single)


def _distributions(times: dict[str, list[int]]) -> dict[str, Distribution]:
    return {name: Distribution.of(times[name]) for name in STAGES}


# ---- what limits the speed of the whole ----


def longest_path(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Return the critical path: the chain of calls that need each other's results and run longest.

    It is empty if no call needs the result of another one.
    """
    known: dict[
        int, tuple[int, Call | None]
    ] = {}  # by call: run time of the longest path to its end, the call before it
    by_number: dict[int, Call] = {}
    for call in calls:  # the inputs of a call were submitted before it
        best_ns, best = 0, None
        for number in call.inputs or ():
            if number in known and known[number][0] > best_ns:
                best_ns, best = known[number][0], by_number[number]
        by_number[call.number] = call
        known[call.number] = best_ns + call.run_ns, best
    if not known:
        return ()
    last: Call | None = by_number[max(known, key=lambda number: known[number][0])]
    path: list[Call] = []
    while last is not None:
        path.append(last)
        last = known[last.number][1]
    return tuple(reversed(path)) if len(path) > 1 else ()


def _tail_ns(calls: Sequence[Call], workers: int) -> int:
    """Return the time from the last moment at which half of the workers ran calls to the last end of a call."""
    changes = [(call.started_ns, 1) for call in calls if call.ended_ns is not None and call.started_ns is not None]
    changes += [(call.ended_ns, -1) for call in calls if call.ended_ns is not None]
    changes.sort()
    if not changes or workers < 2:
        return 0
    running = 0
    half_ns = changes[0][0]
    for at_ns, change in changes:
        if 2 * running >= workers:
            half_ns = at_ns
        running += change
    return changes[-1][0] - half_ns


def _queue_max(calls: Sequence[Call]) -> int:
    changes = [(call.ready_ns, 1) for call in calls if call.ready_ns is not None and call.started_ns is not None]
    changes += [(call.started_ns, -1) for call in calls if call.ready_ns is not None and call.started_ns is not None]
    waiting = most = 0
    for _, change in sorted(changes):
        waiting += change
        most = max(most, waiting)
    return most


def _ranks_wait(calls: Sequence[Call]) -> float:
    waited_ns = all_ns = 0
    for call in calls:
        if call.ranks_ns:
            times = [ended_ns - start_ns for start_ns, ended_ns in call.ranks_ns]
            all_ns += len(times) * max(times)
            waited_ns += len(times) * max(times) - sum(times)
    return waited_ns / all_ns if all_ns else 0.0
