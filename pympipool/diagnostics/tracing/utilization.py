"""Compute when workers were busy, and why they were idle.

    a worker's life   ├─ starts ─┤─ runs ─┤ idle ├─ runs ─┤ idle ├─ ... ─┤
    idle while        ready: a call was ready; it was still on its way, or the worker was not awake yet
                      blocked: all submitted calls waited for the results of other calls
                      empty: there was no call

Only the part of a life counts in which the executor had work: from the first submission to the last end of a call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pympipool.diagnostics.tracing.timeline import Call, ExecutorRecord, Timeline
from pympipool.diagnostics.tracing.tracks import Track, assign_tracks

Span = tuple[int, int]


@dataclass
class Utilization:
    """How a worker spent its time, in ns; without block allocation, the workers that share a track.

    Attributes:
        name: Name of the worker or track.
        executor: Number of its executor.
        calls: Number of calls that it ran; calls of a map count one by one.
        life_ns: Time from the start of its (first) process to its end, within the trace and the work of the executor.
        starting_ns: Time until its processes could take calls.
        busy_ns: Time in which it ran calls.
        idle_ready_ns: Time in which it ran no call, although calls were ready to run.
        idle_blocked_ns: Time in which it ran no call, because all submitted calls waited for the results of other
            calls.
        idle_empty_ns: Time in which it ran no call, because there was none.
    """

    name: str
    executor: int
    calls: int
    life_ns: int
    starting_ns: int
    busy_ns: int
    idle_ready_ns: int
    idle_blocked_ns: int
    idle_empty_ns: int

    @property
    def idle_ns(self) -> int:
        """All idle time."""
        return self.idle_ready_ns + self.idle_blocked_ns + self.idle_empty_ns


class _Covered:
    """The union of spans. Tells how much of another span it covers."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._before = [0]  # time that is covered before each of the spans
        for begin, end in sorted(spans):
            if end <= begin:
                continue
            if self._ends and begin <= self._ends[-1]:
                self._before[-1] += max(end - self._ends[-1], 0)
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._begins.append(begin)
                self._ends.append(end)
                self._before.append(self._before[-1] + end - begin)

    def until(self, time: int) -> int:
        """Return the time that is covered before a point in time."""
        index = bisect_right(self._begins, time)
        if index == 0:
            return 0
        return self._before[index - 1] + min(time, self._ends[index - 1]) - self._begins[index - 1]

    def within(self, begin: int, end: int) -> int:
        """Return the covered part of a span."""
        return self.until(end) - self.until(begin)


def worker_utilizations(timeline: Timeline) -> list[Utilization]:
    """Return the utilization of each track, in the order of executors and tracks."""
    tracks = list(dict.fromkeys(assign_tracks(timeline).values()))
    utilizations: list[Utilization] = []
    for executor in timeline.executors:
        calls = [call for call in timeline.calls if call.executor == executor.number]
        own = [track for track in tracks if track.executor == executor.number]
        utilizations += _of_executor(executor, own, calls, timeline.duration_ns)
    return utilizations


def work_span(calls: Sequence[Call], end_ns: int) -> Span:
    """Return the span from the first submission to the last end of a call."""
    if not calls:
        return 0, 0
    last_ns = max(end_ns if call.received_ns is None else call.received_ns for call in calls)
    return min(call.submitted_ns for call in calls), last_ns


def run_span(call: Call, end_ns: int) -> Span | None:
    """Return the span in which a call ran, up to the end of the trace if it had not ended; None if it never ran."""
    if call.started_ns is None:
        return None
    if call.ended_ns is not None:
        return call.started_ns, call.ended_ns
    return call.started_ns, end_ns if call.received_ns is None else call.received_ns


def _of_executor(
    executor: ExecutorRecord, tracks: Sequence[Track], calls: list[Call], end_ns: int
) -> list[Utilization]:
    work_begin, work_end = work_span(calls, end_ns)
    ready = _Covered((call.ready_ns, _end_of_waiting(call, end_ns)) for call in calls if call.ready_ns is not None)
    blocked = _Covered(
        (call.submitted_ns, _end_of_waiting(call, end_ns) if call.ready_ns is None else call.ready_ns)
        for call in calls
        if call.inputs is not None
    )
    by_worker: dict[int, list[Call]] = {}
    for call in calls:
        by_worker.setdefault(call.worker, []).append(call)
    return [
        _of_track(track, by_worker, (work_begin, work_end), end_ns, ready, blocked, is_block=executor.is_block)
        for track in tracks
    ]


def _end_of_waiting(call: Call, end_ns: int) -> int:
    if call.started_ns is not None:
        return call.started_ns
    return end_ns if call.received_ns is None else call.received_ns


def _of_track(
    track: Track,
    by_worker: dict[int, list[Call]],
    work: Span,
    end_ns: int,
    ready: _Covered,
    blocked: _Covered,
    *,
    is_block: bool,
) -> Utilization:
    first, last = track.workers[0], track.workers[-1]
    begin = max(first.started_ns, work[0], 0)
    end = min(end_ns if last.gone_ns is None else last.gone_ns, work[1]) if is_block else work[1]
    end = max(begin, end)
    calls = [call for worker in track.workers for call in by_worker.get(worker.number, ())]
    occupied: list[Span] = [(max(worker.started_ns, begin), min(worker.ready_ns, end)) for worker in track.workers]
    starting_ns = sum(max(until - since, 0) for since, until in occupied)
    runs = [span for call in calls if (span := run_span(call, end)) is not None]
    occupied += runs
    utilization = Utilization(
        track.name,
        track.executor,
        sum(call.size for call in calls if call.started_ns is not None),
        end - begin,
        starting_ns,
        sum(until - since for since, until in runs),
        0,
        0,
        0,
    )
    free = sorted([(begin, begin), *occupied, (end, end)])
    latest = begin
    for (_, before), (after, _) in pairwise(free):
        latest = max(latest, before)
        if after > latest:
            _add_idle(utilization, latest, min(after, end), ready, blocked)
    return utilization


def _add_idle(utilization: Utilization, begin: int, end: int, ready: _Covered, blocked: _Covered) -> None:
    if end <= begin:
        return
    idle_ready = ready.within(begin, end)
    idle_blocked = min(blocked.within(begin, end), end - begin - idle_ready)  # approximate where there are both
    utilization.idle_ready_ns += idle_ready
    utilization.idle_blocked_ns += idle_blocked
    utilization.idle_empty_ns += end - begin - idle_ready - idle_blocked
