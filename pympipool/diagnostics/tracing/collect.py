"""From the records of the dispatchers to a `Timeline`: calls get numbers, and all times the same clock.

The clock of a trace is the monotonic one of the master's host, which is the same for all processes there. Workers on
another host tell times of theirs. By how much it differs follows from the calls: none has started before it was sent, and
none was received before it had ended. So each call gives two bounds, and all calls of a host the narrowest ones:

    max(sent - started)  <=  shift  <=  min(received - ended)

If no shift at all is within the bounds, as on the master's own host, there is none; else it is taken from the middle. The
ranks of an MPI worker run within the call as rank 0 has seen it, so a rank whose clock is known narrows the bounds of
others'. A drift of the clocks against each other during the trace is not looked for. A time that would still lie outside
of its call's bounds is moved to them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from pympipool._core.trace_buffer import OUTCOMES, RECORD_FORMAT, Recorder
from pympipool.diagnostics.tracing.timeline import Call, ExecutorPart, Timeline, Worker

Bounds = tuple[float, float]
"""Of what must be added to the times of a clock."""


@dataclass
class Part:
    """The records of one executor, and what it was made with."""

    recorder: Recorder
    about: dict[str, Any]


def collect(parts: Iterable[Part], empty: Timeline, begun_ns: int) -> Timeline:
    """Fills a timeline.

    Args:
        parts: The executors'; those without calls are left out.
        empty: What is known without them.
        begun_ns: The beginning of the trace, monotonic clock.
    """
    names: dict[int, int] = {}  # what the dispatchers call a call: its number
    inputs: dict[int, list[int]] = {}
    found: list[tuple[int, Call]] = []
    with_calls = [part for part in parts if part.recorder.count]
    for number, part in enumerate(with_calls, 1):
        workers = {worker.number: worker for worker in _workers(part.recorder, number, begun_ns)}
        calls = list(_calls(part.recorder, number, begun_ns))
        set_clocks(workers, [call for _, call in calls])
        found += calls
        inputs |= part.recorder.inputs
        empty.executors.append(ExecutorPart(number, part.about))
        empty.workers += workers.values()
        empty.dropped += part.recorder.dropped
    found.sort(key=lambda pair: pair[0])
    for number, (name, call) in enumerate(found, 1):
        call.number = names[name] = number
    for name, waited_for in inputs.items():
        if name in names:
            known = (names[one] for one in waited_for if one in names)
            found[names[name] - 1][1].inputs = tuple(sorted(known))
    empty.calls = [call for _, call in found]
    return empty


def _workers(recorder: Recorder, executor: int, begun_ns: int) -> Iterator[Worker]:
    for number, about in sorted(recorder.workers.items()):
        yield Worker(
            executor,
            number,
            tuple((host, pid) for host, pid in about.get("ranks", ())),
            about.get("started_ns", about["ready_ns"]) - begun_ns,
            about["ready_ns"] - begun_ns,
            about["gone_ns"] - begun_ns if about["gone_ns"] else None,
        )


def _calls(recorder: Recorder, executor: int, begun_ns: int) -> Iterator[tuple[int, Call]]:
    """Each call, with what the dispatcher calls it."""
    names = recorder.names
    stamps = array("q", recorder.stamps())
    at = 0

    def since(time_ns: int) -> int | None:
        return time_ns - begun_ns if time_ns else None

    for (
        submitted,
        ready,
        sent,
        name,
        size,
        started,
        ended,
        received,
        worker,
        outcome,
        count,
    ) in struct.iter_unpack(RECORD_FORMAT, recorder.records()):
        call = Call(
            0,
            names[name] or "?",
            executor,
            worker,
            size,
            OUTCOMES[outcome],
            submitted - begun_ns,
            since(ready),
            since(sent) if worker else None,
            since(started),
            since(ended),
            received - begun_ns if outcome else None,
        )
        if count:
            told = [stamp - begun_ns for stamp in stamps[at : at + count]]
            at += count
            if worker in recorder.workers and len(recorder.workers[worker].get("ranks", ())) > 1:
                call.ranks_ns = tuple(zip(told[::2], told[1::2], strict=True))
            else:
                call.items_ns = tuple(told)
        yield submitted, call


# ---- clocks ----


def set_clocks(workers: dict[int, Worker], calls: list[Call]) -> None:
    """Gives all times of an executor's calls the master's clock."""
    answered = [call for call in calls if call.ended_ns is not None and call.worker in workers]
    parallel = [call for call in answered if call.ranks_ns]
    bounds: dict[str, Bounds] = {}
    for call in answered:
        sent_ns, started_ns, ended_ns, received_ns = _times(call)
        _narrow(bounds, workers[call.worker].host, sent_ns - started_ns, received_ns - ended_ns)
        for host, rank_begun_ns, rank_ended_ns in _ranks(workers, call):
            _narrow(bounds, host, sent_ns - rank_begun_ns, received_ns - rank_ended_ns)
    as_masters = {host for host, (low, high) in bounds.items() if low <= 0 <= high}
    for call in parallel:  # ranks on the master's host say more of rank 0's clock
        _, started_ns, ended_ns, _ = _times(call)
        for host, rank_begun_ns, rank_ended_ns in _ranks(workers, call):
            if host in as_masters and workers[call.worker].host not in as_masters:
                _narrow(bounds, workers[call.worker].host, rank_ended_ns - ended_ns, rank_begun_ns - started_ns)
    of_first_ranks = {workers[call.worker].host for call in answered}
    clocks = {host: estimate(*bounds[host]) for host in of_first_ranks}
    for call in answered:
        _shift(call, clocks[workers[call.worker].host][0])
    for call in parallel:
        _, started_ns, ended_ns, _ = _times(call)
        for host, rank_begun_ns, rank_ended_ns in _ranks(workers, call):
            if host not in as_masters | of_first_ranks:
                _narrow(bounds, host, started_ns - rank_begun_ns, ended_ns - rank_ended_ns)
    clocks = {host: estimate(*both) for host, both in bounds.items() if host not in clocks} | clocks
    for call in parallel:
        _shift_ranks(call, [clocks[host][0] for host, _, _ in _ranks(workers, call)])
    for worker in workers.values():
        worker.clock_offset_ns, worker.clock_uncertainty_ns = clocks.get(worker.host, (0, 0))
        others = sorted({host for host, _ in worker.ranks} - {worker.host})
        worker.clocks = tuple((host, *clocks[host]) for host in others if host in clocks)


def _times(call: Call) -> tuple[int, int, int, int]:
    """Sent, started, ended, received."""
    assert call.sent_ns is not None
    assert call.started_ns is not None
    assert call.ended_ns is not None
    assert call.received_ns is not None
    return call.sent_ns, call.started_ns, call.ended_ns, call.received_ns


def _ranks(workers: dict[int, Worker], call: Call) -> Iterator[tuple[str, int, int]]:
    """For each rank of an MPI worker its host, and when it began and ended the call: within the time that rank 0 has told."""
    for (host, _), (begun_ns, ended_ns) in zip(workers[call.worker].ranks, call.ranks_ns, strict=False):
        yield host, begun_ns, ended_ns


def _narrow(bounds: dict[str, Bounds], host: str, low_ns: int, high_ns: int) -> None:
    low, high = bounds.get(host, (-inf, inf))
    bounds[host] = max(low, low_ns), min(high, high_ns)


def estimate(low: float, high: float) -> tuple[int, int]:
    """What to add to the times of a clock, and how far that may be wrong.

    Examples:
        >>> estimate(-50, 20)
        (0, 0)
        >>> estimate(1000, 1200)
        (1100, 100)
    """
    if low <= 0 <= high:
        return 0, 0
    return round((low + high) / 2), round(abs(high - low) / 2)


def _shift(call: Call, clock_offset_ns: int) -> None:
    sent_ns, started_ns, ended_ns, received_ns = _times(call)
    # A call is sent a moment after the time that was noted: only another clock can be out of bounds.
    call.started_ns = started_ns = min(max(started_ns + clock_offset_ns, sent_ns), received_ns)
    call.ended_ns = ended_ns = min(max(ended_ns + clock_offset_ns, started_ns), received_ns)
    call.items_ns = tuple(min(max(item + clock_offset_ns, started_ns), ended_ns) for item in call.items_ns)


def _shift_ranks(call: Call, shifts_ns: list[int]) -> None:
    _, started_ns, ended_ns, _ = _times(call)
    moved = []
    for (rank_begun_ns, rank_ended_ns), clock_offset_ns in zip(call.ranks_ns, shifts_ns, strict=False):
        begun_ns = max(rank_begun_ns + clock_offset_ns, started_ns)
        moved.append((begun_ns, max(min(rank_ended_ns + clock_offset_ns, ended_ns), begun_ns)))
    call.ranks_ns = tuple(moved)
