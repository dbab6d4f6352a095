"""From the records of the dispatchers to a `Timeline`: calls get numbers, and all times the same clock.

The clock of a trace is the monotonic one of the master's host, which is the same for all processes there. Workers on
another host tell times of theirs. By how much it differs follows from the calls: none has started before it was sent, and
none was received before it had ended. So each call gives two bounds, and all calls of a host the narrowest ones:

    max(sent - started)  <=  shift  <=  min(received - ended)

If no shift at all is within the bounds, as on the master's own host, there is none; else it is taken from the middle. A
drift of the clocks against each other during the trace is not looked for. A time that would still lie outside
of its call's bounds is moved to them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from pympipool._recording import OUTCOMES, RECORD_FORMAT, Recorder
from pympipool.tracing.timeline import Call, ExecutorPart, Timeline, Worker

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
    bounds: dict[str, Bounds] = {}
    for call in answered:
        assert call.sent_ns is not None
        assert call.started_ns is not None
        assert call.ended_ns is not None
        assert call.received_ns is not None
        host = workers[call.worker].host
        low, high = bounds.get(host, (-inf, inf))
        bounds[host] = max(low, call.sent_ns - call.started_ns), min(high, call.received_ns - call.ended_ns)
    shifts = {host: estimate(*both) for host, both in bounds.items()}
    for worker in workers.values():
        worker.shift_ns, worker.doubt_ns = shifts.get(worker.host, (0, 0))
    for call in answered:
        _shift(call, workers[call.worker].shift_ns)
    _set_clocks_of_ranks(workers, [call for call in answered if call.ranks_ns])


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


def _shift(call: Call, shift_ns: int) -> None:
    assert call.sent_ns is not None
    assert call.started_ns is not None
    assert call.ended_ns is not None
    assert call.received_ns is not None
    # A call is sent a moment after the time that was noted: only another clock can be out of bounds.
    call.started_ns = min(max(call.started_ns + shift_ns, call.sent_ns), call.received_ns)
    call.ended_ns = min(max(call.ended_ns + shift_ns, call.started_ns), call.received_ns)
    started_ns, ended_ns = call.started_ns, call.ended_ns
    call.items_ns = tuple(min(max(item + shift_ns, started_ns), ended_ns) for item in call.items_ns)


def _set_clocks_of_ranks(workers: dict[int, Worker], calls: list[Call]) -> None:
    """The same for the ranks of MPI workers, which run within the call as rank 0 has seen it."""
    bounds: dict[str, Bounds] = {}
    for call in calls:
        assert call.started_ns is not None
        assert call.ended_ns is not None
        for (host, _), (begun_ns, ended_ns) in zip(workers[call.worker].ranks, call.ranks_ns, strict=False):
            low, high = bounds.get(host, (-inf, inf))
            bounds[host] = max(low, call.started_ns - begun_ns), min(high, call.ended_ns - ended_ns)
    clocks = {host: estimate(*both) for host, both in bounds.items()}
    shifts = {host: shift_ns for host, (shift_ns, _) in clocks.items()}
    for worker in {call.worker: workers[call.worker] for call in calls}.values():
        others = sorted({host for host, _ in worker.ranks} - {worker.host})
        worker.clocks = tuple((host, *clocks[host]) for host in others if host in clocks)
    for call in calls:
        moved = []
        for (host, _), (begun_ns, ended_ns) in zip(workers[call.worker].ranks, call.ranks_ns, strict=False):
            begun = max(begun_ns + shifts[host], call.started_ns or 0)
            moved.append((begun, max(min(ended_ns + shifts[host], call.ended_ns or 0), begun)))
        call.ranks_ns = tuple(moved)
