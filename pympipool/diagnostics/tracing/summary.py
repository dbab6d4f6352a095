"""What a trace says, in numbers: where the time of calls and workers went.

    submitted ── ready ── sent ── started ── ended ── received
        │ inputs,  │ worker │ line,   │  runs   │ back
        │ pickling │        │ there   │         │

Nothing here prints: `pympipool.diagnostics.tracing.report` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pympipool.diagnostics.tracing.timeline import Call, Timeline
from pympipool.diagnostics.tracing.utilization import Utilization, shares_of_workers, work_of

LONGEST = 5
"""Calls that are named one by one."""

STAGES = ("inputs", "pickling", "worker", "start", "line", "there", "run", "back", "overhead")
"""Where the time of a call goes: waits for the results of other calls; is pickled; waits for a worker; its own process
starts (without block allocation); waits behind another call of its worker; is on its way there; runs; its result is on its
way back. The overhead is all that is not work of this or another call: pickling, start, there, back."""


@dataclass(frozen=True)
class Distribution:
    """Some times, ns: how many, half of them are below the median, 95 % below the high one."""

    count: int = 0
    total_ns: int = 0
    median_ns: int = 0
    high_ns: int = 0
    longest_ns: int = 0

    @classmethod
    def of(cls, times_ns: Iterable[int]) -> Distribution:
        """Of these times."""
        ordered = sorted(times_ns)
        if not ordered:
            return cls()
        count = len(ordered)
        return cls(count, sum(ordered), ordered[count // 2], ordered[min(count * 95 // 100, count - 1)], ordered[-1])


@dataclass(frozen=True)
class FunctionShare:
    """The calls of one function that ran; run times of a map's calls that travelled together are shared out evenly."""

    name: str
    calls: int
    messages: int
    total_ns: int
    median_ns: int
    longest_ns: int


@dataclass(frozen=True)
class ExecutorShare:
    """The calls and workers of one executor.

    Attributes:
        number: Its number.
        is_block: Whether its workers serve many calls each.
        max_workers: What it was made with.
        span_ns: From the first submission to the last end.
        stages: Where the time of its calls went, by the names of `STAGES`.
        single: The same of those that were submitted one by one, not by a map that packs them.
        workers: What each worker, or place for one, did.
        path: Its calls that needed each other's results and took longest together; ran for path_ns.
        tail_ns: How long, at the end, less than half of its workers ran calls.
        queue_max: Most calls that were ready at a time without a worker having begun them.
        ranks_wait: Utilization of the time of MPI workers in which ranks waited for the slowest one.
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

    def idle(self, what: str = "idle_ns") -> float:
        """The part of its workers' lives that they were idle, of all or for one reason (see `Utilization`)."""
        life_ns = sum(worker.life_ns for worker in self.workers)
        return sum(getattr(worker, what) for worker in self.workers) / life_ns if life_ns else 0.0


@dataclass(frozen=True)
class Summary:
    """What a trace says.

    Attributes:
        timeline: It.
        calls: All of them; those of a map one by one.
        messages: The same, those that travelled together as one.
        outcomes: How many ended how.
        functions: Those that took most time first.
        executors: Those that had calls.
        longest: Those that ran longest.
    """

    timeline: Timeline
    calls: int
    messages: int
    outcomes: dict[str, int]
    functions: list[FunctionShare]
    executors: list[ExecutorShare]
    longest: list[Call]


def summarise(timeline: Timeline) -> Summary:
    """Sums a trace up."""
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


def _functions(calls: Sequence[Call]) -> list[FunctionShare]:
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        if call.ended_ns is not None:
            by_name.setdefault(call.name, []).append(call)
    shares = []
    for name, own in by_name.items():
        each = Distribution.of(call.run_ns // call.size for call in own)
        total_ns = sum(call.run_ns for call in own)
        count = sum(call.size for call in own)
        shares.append(FunctionShare(name, count, len(own), total_ns, each.median_ns, each.longest_ns))
    return sorted(shares, key=lambda share: -share.total_ns)


def _of_executor(timeline: Timeline, number: int) -> ExecutorShare:
    executor = timeline.executors[number - 1]
    calls = [call for call in timeline.calls if call.executor == number]
    workers = [share for share in shares_of_workers(timeline) if share.executor == number]
    begin_ns, end_ns = work_of(calls, timeline.duration_ns)
    path = longest_path(calls)
    packed = {call.name for call in calls if call.size > 1}
    every, single = _stages(timeline, number, calls, packed)
    return ExecutorShare(
        number,
        executor.is_block,
        executor.about.get("max_workers", len(workers)),
        end_ns - begin_ns,
        every,
        single,
        workers,
        path,
        sum(call.run_ns for call in path),
        _tail_ns(calls, len(workers)),
        _queue_max(calls),
        _ranks_wait(calls),
    )


# ---- stages ----


def _stages(
    timeline: Timeline, executor: int, calls: Sequence[Call], packed: set[str]
) -> tuple[dict[str, Distribution], dict[str, Distribution]]:
    """Of all calls, and of those whose functions' names are not among the packed ones."""
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
        line_ns = max(min(free_ns or 0, call.started_ns) - call.sent_ns, 0)
        there_ns = call.started_ns - call.sent_ns - line_ns
        back_ns = call.received_ns - call.ended_ns
        pickling_ns = 0 if call.inputs is not None else until_ready_ns
        took = {
            "inputs" if call.inputs is not None else "pickling": until_ready_ns,
            "worker": max(call.sent_ns - call.ready_ns - start_ns, 0),
            "line": line_ns,
            "there": there_ns,
            "run": call.run_ns,
            "back": back_ns,
            "overhead": pickling_ns + start_ns + there_ns + back_ns,
        }
        if not is_block:
            took["start"] = start_ns
        for times in (every,) if call.name in packed else (every, single):
            for name, time_ns in took.items():
                times[name].append(time_ns)
    return _spreads(every), _spreads(single)


def _spreads(times: dict[str, list[int]]) -> dict[str, Distribution]:
    return {name: Distribution.of(times[name]) for name in STAGES}


# ---- what holds the whole up ----


def longest_path(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls that needed each other's results, one after the other, and ran longest together; none for one alone."""
    known: dict[int, tuple[int, Call | None]] = {}  # of a call: run time of the path to its end, the call before
    by_number: dict[int, Call] = {}
    for call in calls:  # inputs were submitted before
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
    """Time between the last moment at which half of the workers ran calls, and the last end."""
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
            times = [ended_ns - begun_ns for begun_ns, ended_ns in call.ranks_ns]
            all_ns += len(times) * max(times)
            waited_ns += len(times) * max(times) - sum(times)
    return waited_ns / all_ns if all_ns else 0.0
