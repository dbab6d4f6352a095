"""Write a `Timeline` as trace events: the JSON that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

    executor      process; its workers are threads of that process, and each rank of an MPI worker is one more thread
    call          complete event (X) on its worker's thread, with all its times, worker and host in its arguments;
                  instant event (i) if the call was never started
    items         complete events inside of the call: the calls of a map that travelled together
    waiting       asynchronous events (b, e) of the process: until the call was ready, sent, started
    dependency    flow events (s, f) from a call to the call that gets its result
    counters      counter events (C): number of waiting and of running calls, from the start of the trace to its end

The format: "Trace Event Format", Google,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Times are in µs there, so a ns is the
third decimal. Data that trace events have no place for are under the key "pympipool".
"""

from __future__ import annotations

import gzip
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import pympipool
from pympipool.diagnostics.tracing.timeline import Call, Timeline
from pympipool.diagnostics.tracing.tracks import Key, Track, assign_tracks

FORMAT = 2
"""Version of the data under the key "pympipool". It grows with each change that an earlier reader could not read.

1: the keys begun, length_ns, shift_ns, doubt_ns, about; the outcomes "raised" and "failed".
2: the keys start_time, duration_ns, clock_offset_ns, clock_uncertainty_ns, info; the outcomes "error" and "lost".
"""

ROWS_MAX = 64
"""Maximum number of calls that are shown waiting at the same time. The counters count all calls."""

COUNTER_POINTS = 20_000
"""Approximate maximum number of changes of the counters that are written.

Changes that follow too quickly are left out.
"""

FIRST_THREAD = 1001
"""Number of the first thread, larger than the numbers of executors.

Viewers call a thread with the number of its process the main thread.
"""

Event = dict[str, Any]


def write(timeline: Timeline, path: Path, *, compressed: bool) -> None:
    """Write the file.

    Raises:
        OSError: The file cannot be written.
    """
    with _opened(path, compressed) as file:
        header = {"format": FORMAT, "version": pympipool.__version__, **asdict(_without_calls(timeline))}
        file.write('{"displayTimeUnit":"ms","pympipool":')
        json.dump(header, file, default=str)
        file.write(',\n"traceEvents":[\n')
        first = True
        for line in events(timeline):
            file.write(line if first else f",\n{line}")
            first = False
        file.write("\n]}\n")


def _opened(path: Path, compressed: bool) -> IO[str]:
    if compressed:
        return cast(IO[str], gzip.open(path, "wt", compresslevel=4, encoding="utf-8"))
    return path.open("w", encoding="utf-8")


def _without_calls(timeline: Timeline) -> Timeline:
    return Timeline(
        timeline.start_time,
        timeline.duration_ns,
        timeline.host,
        timeline.pid,
        timeline.executors,
        timeline.workers,
        [],
        timeline.dropped,
        timeline.shared_bytes,
    )


def events(timeline: Timeline) -> Iterator[str]:
    """Yield all events, each as JSON."""
    threads = _Threads(timeline)
    yield from map(_dump, threads.names())
    yield from map(_dump, threads.worker_starts())
    names: dict[str, str] = {}
    arrows = itertools.count(1)  # ids of the flow events: numbers, because Perfetto reads no other ids
    by_number = {call.number: call for call in timeline.calls} if any(c.inputs for c in timeline.calls) else {}
    for call in timeline.calls:
        name = names.get(call.name)
        if name is None:
            name = names[call.name] = json.dumps(call.name)
        yield from _call(call, name, threads)
        for number in call.inputs or ():
            if number in by_number:
                yield from map(_dump, _flow(next(arrows), by_number[number], call, threads))
    for executor in timeline.executors:
        calls = [call for call in timeline.calls if call.executor == executor.number]
        yield from _waiting(calls, names)
        yield from _counters(executor.number, calls, timeline.duration_ns)


def _dump(event: Event) -> str:
    return json.dumps(event, separators=(",", ":"))


def _us(time_ns: int) -> float:
    return time_ns / 1000


class _Threads:
    """The threads of the file: which one shows which worker or rank."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._tracks = assign_tracks(timeline)
        self.hosts = {
            (worker.executor, worker.number): [json.dumps(host) for host, _ in worker.ranks]
            for worker in timeline.workers
        }
        """Host of each rank of a worker, as JSON."""
        self.of_worker: dict[Key, int] = {}
        self._named: list[tuple[int, int, str]] = []  # executor, thread, name
        of_track: dict[tuple[int, int], int] = {}  # by executor and track
        for key, track in self._tracks.items():
            track_key = (track.executor, track.number)
            if track_key not in of_track:
                of_track[track_key] = self._new_threads(track)
            self.of_worker[key] = of_track[track_key]

    def _new_threads(self, track: Track) -> int:
        """Return a new thread for a track, which is followed by one thread for each rank of its MPI workers."""
        first = FIRST_THREAD + len(self._named)
        self._named.append((track.executor, first, track.name))
        ranks = max(len(worker.ranks) for worker in track.workers)
        if ranks > 1:
            self._named += [(track.executor, first + 1 + rank, track.rank_name(rank)) for rank in range(ranks)]
        return first

    def names(self) -> Iterator[Event]:
        for executor in self._timeline.executors:
            kind = "block allocation" if executor.is_block else "a process for each call"
            workers = executor.info.get("max_workers", "?")
            name = f"Executor {executor.number}: {kind}, {workers} worker{'' if workers == 1 else 's'}"
            yield _metadata("process_name", executor.number, 0, name=name)
        for executor_number, thread, name in self._named:
            yield _metadata("thread_name", executor_number, thread, name=name)
            yield _metadata("thread_sort_index", executor_number, thread, sort_index=thread)

    def worker_starts(self) -> Iterator[Event]:
        """Yield an event for the start of each worker."""
        for worker in self._timeline.workers:
            if worker.ready_ns <= 0:
                continue
            start_ns = max(worker.started_ns, 0)
            yield {
                "name": "start of the worker",
                "cat": "worker",
                "ph": "X",
                "ts": _us(start_ns),
                "dur": _us(worker.ready_ns - start_ns),
                "pid": worker.executor,
                "tid": self.of_worker[worker.executor, worker.number],
                "args": {"worker": worker.number, "host": worker.host, "pid": worker.pid},
            }


def _metadata(event: str, executor: int, thread: int, **args: Any) -> Event:
    return {"name": event, "ph": "M", "pid": executor, "tid": thread, "args": args}


# ---- calls ----


def _call(call: Call, name: str, threads: _Threads) -> Iterator[str]:
    key = call.executor, call.worker
    thread = threads.of_worker.get(key, 0)
    hosts = threads.hosts.get(key) or ["null"]
    args = (
        f'{{"call":{call.number},"worker":{call.worker},"host":{hosts[0]},"outcome":"{call.outcome}","calls":{call.size}'
        f',"submitted_us":{call.submitted_ns / 1000}'
    )
    for event, time_ns in (("ready", call.ready_ns), ("sent", call.sent_ns), ("received", call.received_ns)):
        if time_ns is not None:
            args += f',"{event}_us":{time_ns / 1000}'
    if call.inputs is not None:
        args += f',"inputs":{list(call.inputs)}'
    for size, size_bytes in (("argument", call.argument_bytes), ("result", call.result_bytes)):
        if size_bytes is not None:
            args += f',"{size}_bytes":{size_bytes}'
    if call.imports_ns:
        imports_us = {package: time_ns / 1000 for package, time_ns in call.imports_ns.items()}
        args += f',"imports_us":{json.dumps(imports_us)}'
    where = f'"pid":{call.executor},"tid":{thread}'
    if call.started_ns is None:
        at_ns = call.submitted_ns if call.received_ns is None else call.received_ns
        yield f'{{"name":{name},"cat":"call","ph":"i","s":"p","ts":{at_ns / 1000},{where},"args":{args}}}}}'
        return
    end_ns = call.ended_ns
    if end_ns is None:  # the call had not ended, or its worker died
        end_ns = call.received_ns
        args += ',"ended_us":null'
    if end_ns is None:
        phase = '"ph":"B"'
    else:
        phase = f'"ph":"X","dur":{max(end_ns - call.started_ns, 0) / 1000}'
    yield f'{{"name":{name},"cat":"call",{phase},"ts":{call.started_ns / 1000},{where},"args":{args}}}}}'
    start_ns = call.started_ns
    for number, item_ns in enumerate(call.items_ns):
        duration = (item_ns - start_ns) / 1000
        yield (
            f'{{"name":{name},"cat":"item","ph":"X","ts":{start_ns / 1000},"dur":{duration},{where}'
            f',"args":{{"call":{call.number},"item":{number}}}}}'
        )
        start_ns = item_ns
    for rank, ((rank_start_ns, rank_ended_ns), host) in enumerate(zip(call.ranks_ns, hosts, strict=False)):
        yield (
            f'{{"name":{name},"cat":"rank","ph":"X","ts":{rank_start_ns / 1000},"dur":{(rank_ended_ns - rank_start_ns) / 1000}'
            f',"pid":{call.executor},"tid":{thread + 1 + rank},"args":{{"call":{call.number},"rank":{rank},"host":{host}}}}}'
        )


def _flow(arrow: int, source: Call, target: Call, threads: _Threads) -> Iterator[Event]:
    """Yield an arrow between two calls. Viewers attach a flow event to the slice around its time."""
    if source.started_ns is None or source.ended_ns is None or target.started_ns is None:
        return
    common = {"name": "result", "cat": "dependency", "id": arrow}
    source_thread = threads.of_worker.get((source.executor, source.worker), 0)
    target_thread = threads.of_worker.get((target.executor, target.worker), 0)
    last_ns = max(source.ended_ns - 1, source.started_ns)
    yield {**common, "ph": "s", "ts": _us(last_ns), "pid": source.executor, "tid": source_thread}
    yield {**common, "ph": "f", "bp": "e", "ts": _us(target.started_ns), "pid": target.executor, "tid": target_thread}


# ---- waiting ----


def _waiting(calls: Iterable[Call], names: dict[str, str]) -> Iterator[str]:
    """Yield events for waiting calls, at most ROWS_MAX at the same time."""
    open_until: list[int] = []
    for call in calls:  # in the order of submission
        end_ns = _waited_until(call)
        while open_until and open_until[0] <= call.submitted_ns:
            heapq.heappop(open_until)
        if end_ns is None or end_ns <= call.submitted_ns or len(open_until) >= ROWS_MAX:
            continue
        heapq.heappush(open_until, end_ns)
        local = f'{{"local":"{call.number:#x}"}}'  # an event with a global id would belong to no process
        common = f'"cat":"waiting","id2":{local},"pid":{call.executor},"tid":0'
        begin_ns = call.submitted_ns
        yield f'{{"name":{names[call.name]},"ph":"b","ts":{begin_ns / 1000},{common}}}'
        is_blocked = call.inputs is not None
        for stage, until_ns in (
            ("waits for its inputs" if is_blocked else "is pickled", call.ready_ns),
            ("waits for a worker", call.sent_ns),
            ("waits in the worker's queue", call.started_ns),
        ):
            last_ns = end_ns if until_ns is None else min(until_ns, end_ns)
            if last_ns > begin_ns:
                yield f'{{"name":"{stage}","ph":"b","ts":{begin_ns / 1000},{common}}}'
                yield f'{{"name":"{stage}","ph":"e","ts":{last_ns / 1000},{common}}}'
            begin_ns = max(last_ns, begin_ns)
        yield f'{{"name":{names[call.name]},"ph":"e","ts":{end_ns / 1000},{common}}}'


def _waited_until(call: Call) -> int | None:
    return call.received_ns if call.started_ns is None else call.started_ns


def _counters(executor: int, calls: list[Call], end_ns: int) -> Iterator[str]:
    """Yield the numbers of waiting and running calls.

    They span the trace from its start to its end, because viewers show the span of all events.
    """
    changes: list[tuple[int, int, int]] = [(0, 0, 0), (end_ns, 0, 0)]
    for call in calls:
        started_ns = _waited_until(call)
        changes.append((call.submitted_ns, 1, 0))
        if started_ns is None:
            continue
        is_running = call.started_ns is not None
        changes.append((started_ns, -1, int(is_running)))
        ended_ns = call.received_ns if call.ended_ns is None else call.ended_ns
        if is_running and ended_ns is not None:
            changes.append((ended_ns, 0, -1))
    changes.sort()
    step_ns = end_ns // COUNTER_POINTS if len(changes) > COUNTER_POINTS else 0
    waiting = running = 0
    written_ns = -step_ns - 1
    for position, (at_ns, more_waiting, more_running) in enumerate(changes):
        waiting += more_waiting
        running += more_running
        if at_ns - written_ns > step_ns or position == len(changes) - 1:
            written_ns = at_ns
            yield (
                f'{{"name":"calls","ph":"C","ts":{at_ns / 1000},"pid":{executor},"tid":0'
                f',"args":{{"waiting":{waiting},"running":{running}}}}}'
            )
