"""Collect the records of the dispatchers into a `Timeline`: number the calls, convert all times to one clock.

The clock of a trace is the monotonic clock of the master's host, which is the same for all processes of that host.
Workers on another host report times of their own clock. The offset between the clocks follows from the calls: no call
started before it was sent, and no result was received before the call had ended. So each call gives two bounds, and all
calls of a host together give the narrowest ones:

    max(sent - started)  <=  offset  <=  min(received - ended)

If an offset of zero is within the bounds, as it is on the master's own host, the offset is zero. Otherwise it is the
middle of the bounds. The ranks of an MPI worker run within the call as rank 0 saw it, so a rank whose clock is known
narrows the bounds of the other ranks. A drift of the clocks against each other during the trace is not corrected. A
time that would still lie outside of the bounds of its call is moved to the nearest bound.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from pympipool._core.trace_buffer import IMPORT_STAMPS, RECORD_FORMAT, Recorder
from pympipool.diagnostics.tracing.timeline import (
    CANCELLED,
    ERROR,
    LOST,
    RETURNED,
    UNFINISHED,
    Call,
    ExecutorRecord,
    Timeline,
    Worker,
)

OUTCOMES = (UNFINISHED, RETURNED, ERROR, CANCELLED, LOST)
"""Names of the outcomes, in the order of the enum `Outcome` in _core/trace_buffer.pxd."""

IMPORT_MIN_NS = 1_000_000
"""Shortest import that a timeline names. Most modules of the standard library take less."""

OWN_PACKAGE = "cloudpickle"
"""Imported by each worker when a function of a script arrives. A timeline does not name it: users have not asked for it."""

Bounds = tuple[float, float]
"""Lowest and highest number of ns that must be added to the times of a clock."""


@dataclass
class RecordedExecutor:
    """The records of one executor, and the parameters it was made with."""

    recorder: Recorder
    executor_info: dict[str, Any]


def collect(recorded: Iterable[RecordedExecutor], empty: Timeline, start_ns: int) -> Timeline:
    """Fill a timeline.

    Args:
        recorded: Records of all executors. Executors without calls are left out.
        empty: The timeline without executors, workers and calls.
        start_ns: Start of the trace by the monotonic clock.
    """
    numbers: dict[int, int] = {}  # number of each call by the dispatcher's id of it: the time of submission
    inputs: dict[int, list[int]] = {}
    found: list[tuple[int, Call]] = []
    with_calls = [part for part in recorded if part.recorder.count]
    for number, part in enumerate(with_calls, 1):
        workers = {worker.number: worker for worker in _workers(part.recorder, number, start_ns)}
        calls = list(_calls(part.recorder, number, start_ns))
        align_clocks(workers, [call for _, call in calls])
        found += calls
        inputs |= part.recorder.inputs
        empty.executors.append(ExecutorRecord(number, part.executor_info))
        empty.workers += workers.values()
        empty.dropped += part.recorder.dropped
    found.sort(key=lambda pair: pair[0])
    for number, (call_id, call) in enumerate(found, 1):
        call.number = numbers[call_id] = number
    for call_id, input_ids in inputs.items():
        if call_id in numbers:
            known = (numbers[input_id] for input_id in input_ids if input_id in numbers)
            found[numbers[call_id] - 1][1].inputs = tuple(sorted(known))
    empty.calls = [call for _, call in found]
    return empty


def _workers(recorder: Recorder, executor: int, start_ns: int) -> Iterator[Worker]:
    for number, data in sorted(recorder.workers.items()):
        yield Worker(
            executor,
            number,
            tuple((host, pid) for host, pid in data.get("ranks", ())),
            data.get("started_ns", data["ready_ns"]) - start_ns,
            data["ready_ns"] - start_ns,
            data["gone_ns"] - start_ns if data["gone_ns"] else None,
        )


def _calls(recorder: Recorder, executor: int, start_ns: int) -> Iterator[tuple[int, Call]]:
    """Yield each call with the dispatcher's id of it."""
    names = recorder.names
    stamps = array("q", recorder.stamps())
    position = 0  # in the stamps

    def since(time_ns: int) -> int | None:
        return time_ns - start_ns if time_ns else None

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
        argument_bytes,
        result_bytes,
        outcome,
        import_count,
        count,
    ) in struct.iter_unpack(RECORD_FORMAT, recorder.records()):
        call = Call(
            0,
            names[name] or "?",
            executor,
            worker,
            size,
            OUTCOMES[outcome],
            submitted - start_ns,
            since(ready),
            since(sent) if worker else None,
            since(started),
            since(ended),
            received - start_ns if outcome else None,
            argument_bytes=argument_bytes or None,
            result_bytes=result_bytes or None,
            imports_ns=_imports(stamps[position : position + import_count * IMPORT_STAMPS]),
        )
        if count:
            times_ns = [stamp - start_ns for stamp in stamps[position : position + count]]
            del times_ns[: import_count * IMPORT_STAMPS]
            position += count
            if worker in recorder.workers and len(recorder.workers[worker].get("ranks", ())) > 1:
                call.ranks_ns = tuple(zip(times_ns[::2], times_ns[1::2], strict=True))
            else:
                call.items_ns = tuple(times_ns)
        yield submitted, call


def _imports(stamps: array[int]) -> dict[str, int]:
    """Return the packages that a call imported, each with the time in ns."""
    imports = {}
    for position in range(0, len(stamps), IMPORT_STAMPS):
        time_ns, *name = stamps[position : position + IMPORT_STAMPS]
        package = array("q", name).tobytes().rstrip(b"\0").decode(errors="replace")
        if time_ns >= IMPORT_MIN_NS and package != OWN_PACKAGE:
            imports[package] = time_ns
    return imports


# ---- clocks ----


def align_clocks(workers: dict[int, Worker], calls: list[Call]) -> None:
    """Convert all times of an executor's calls to the master's clock."""
    answered = [call for call in calls if call.ended_ns is not None and call.worker in workers]
    parallel = [call for call in answered if call.ranks_ns]
    bounds: dict[str, Bounds] = {}
    for call in answered:
        sent_ns, started_ns, ended_ns, received_ns = _times(call)
        _narrow(bounds, workers[call.worker].host, sent_ns - started_ns, received_ns - ended_ns)
        for host, rank_start_ns, rank_ended_ns in _ranks(workers, call):
            _narrow(bounds, host, sent_ns - rank_start_ns, received_ns - rank_ended_ns)
    synchronous = {host for host, (low, high) in bounds.items() if low <= 0 <= high}
    for call in parallel:  # ranks on the master's host narrow the bounds of rank 0's clock
        _, started_ns, ended_ns, _ = _times(call)
        for host, rank_start_ns, rank_ended_ns in _ranks(workers, call):
            if host in synchronous and workers[call.worker].host not in synchronous:
                _narrow(bounds, workers[call.worker].host, rank_ended_ns - ended_ns, rank_start_ns - started_ns)
    hosts_of_rank_0 = {workers[call.worker].host for call in answered}
    clocks = {host: estimate(*bounds[host]) for host in hosts_of_rank_0}
    for call in answered:
        _shift(call, clocks[workers[call.worker].host][0])
    for call in parallel:
        _, started_ns, ended_ns, _ = _times(call)
        for host, rank_start_ns, rank_ended_ns in _ranks(workers, call):
            if host not in synchronous | hosts_of_rank_0:
                _narrow(bounds, host, started_ns - rank_start_ns, ended_ns - rank_ended_ns)
    clocks = {host: estimate(*limits) for host, limits in bounds.items() if host not in clocks} | clocks
    for call in parallel:
        _shift_ranks(call, [clocks[host][0] for host, _, _ in _ranks(workers, call)])
    for worker in workers.values():
        worker.clock_offset_ns, worker.clock_uncertainty_ns = clocks.get(worker.host, (0, 0))
        others = sorted({host for host, _ in worker.ranks} - {worker.host})
        worker.clocks = tuple((host, *clocks[host]) for host in others if host in clocks)


def _times(call: Call) -> tuple[int, int, int, int]:
    """Return sent_ns, started_ns, ended_ns, received_ns of a call that was answered."""
    assert call.sent_ns is not None
    assert call.started_ns is not None
    assert call.ended_ns is not None
    assert call.received_ns is not None
    return call.sent_ns, call.started_ns, call.ended_ns, call.received_ns


def _ranks(workers: dict[int, Worker], call: Call) -> Iterator[tuple[str, int, int]]:
    """Yield the host of each rank of an MPI worker, and when the rank started and ended the call."""
    for (host, _), (start_ns, ended_ns) in zip(workers[call.worker].ranks, call.ranks_ns, strict=False):
        yield host, start_ns, ended_ns


def _narrow(bounds: dict[str, Bounds], host: str, low_ns: int, high_ns: int) -> None:
    low, high = bounds.get(host, (-inf, inf))
    bounds[host] = max(low, low_ns), min(high, high_ns)


def estimate(low: float, high: float) -> tuple[int, int]:
    """Return the offset to add to the times of a clock, and its uncertainty, from the bounds of the offset.

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
    # The call is sent a moment after the recorded time, so times of the same clock are always within the bounds.
    call.started_ns = started_ns = min(max(started_ns + clock_offset_ns, sent_ns), received_ns)
    call.ended_ns = ended_ns = min(max(ended_ns + clock_offset_ns, started_ns), received_ns)
    call.items_ns = tuple(min(max(item + clock_offset_ns, started_ns), ended_ns) for item in call.items_ns)


def _shift_ranks(call: Call, clock_offsets_ns: list[int]) -> None:
    _, started_ns, ended_ns, _ = _times(call)
    moved = []
    for (rank_start_ns, rank_ended_ns), clock_offset_ns in zip(call.ranks_ns, clock_offsets_ns, strict=False):
        start_ns = max(rank_start_ns + clock_offset_ns, started_ns)
        moved.append((start_ns, max(min(rank_ended_ns + clock_offset_ns, ended_ns), start_ns)))
    call.ranks_ns = tuple(moved)
