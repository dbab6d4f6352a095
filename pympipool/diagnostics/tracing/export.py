"""Writes a `Timeline` as trace events: the JSON that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

    executor      process; its workers are the threads in it, each rank of an MPI worker one more
    call          complete event (X) on its worker's thread, with all its times, worker and host in its arguments;
                  instant event (i) where it never came to a worker
    its items     complete events inside it: the calls of a map that travelled together
    waiting       asynchronous events (b, e) of the process: until it was ready, sent, begun
    dependency    flow events (s, f) from one call to the one that gets its result
    how many      counter events (C): calls that wait, calls that run; from the trace's beginning to its end

The format: "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
Times are in µs there, so a ns is the third decimal. What trace events have no place for, stands under the key "pympipool".
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
from pympipool.diagnostics.tracing.tracks import Key, Track, lay_out

FORMAT = 1
"""Of what stands under "pympipool"; grows when a reader of before could not read it."""

ROWS_MAX = 64
"""Calls that are shown waiting at a time; more rows nobody could look at. The counters count all."""

COUNTER_POINTS = 20_000
"""About as many changes of the counters are written; quicker ones are left out."""

FIRST_THREAD = 1001
"""Beyond the numbers of executors: a thread with that of its process is called the main thread."""

Event = dict[str, Any]


def write(timeline: Timeline, path: Path, *, compressed: bool) -> None:
    """Writes the file.

    Raises:
        OSError: It cannot be written.
    """
    with _opened(path, compressed) as file:
        rest = {"format": FORMAT, "version": pympipool.__version__, **asdict(_without_calls(timeline))}
        file.write('{"displayTimeUnit":"ms","pympipool":')
        json.dump(rest, file, default=str)
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
        timeline.begun,
        timeline.duration_ns,
        timeline.host,
        timeline.pid,
        timeline.executors,
        timeline.workers,
        [],
        timeline.dropped,
    )


def events(timeline: Timeline) -> Iterator[str]:
    """All events, each as JSON."""
    tracks = _Tracks(timeline)
    yield from map(_dump, tracks.names())
    yield from map(_dump, tracks.lives())
    names: dict[str, str] = {}
    arrows = itertools.count(1)  # their ids: numbers, as Perfetto reads no others
    by_number = {call.number: call for call in timeline.calls} if any(c.inputs for c in timeline.calls) else {}
    for call in timeline.calls:
        name = names.get(call.name)
        if name is None:
            name = names[call.name] = json.dumps(call.name)
        yield from _call(call, name, tracks)
        for number in call.inputs or ():
            if number in by_number:
                yield from map(_dump, _flow(next(arrows), by_number[number], call, tracks))
    for executor in timeline.executors:
        calls = [call for call in timeline.calls if call.executor == executor.number]
        yield from _waiting(calls, names)
        yield from _counters(executor.number, calls, timeline.duration_ns)


def _dump(event: Event) -> str:
    return json.dumps(event, separators=(",", ":"))


def _us(time_ns: int) -> float:
    return time_ns / 1000


class _Tracks:
    """Which thread of the file is which worker or rank."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._lanes = lay_out(timeline)
        self.hosts = {
            (worker.executor, worker.number): [json.dumps(host) for host, _ in worker.ranks]
            for worker in timeline.workers
        }
        """Of each rank, as JSON."""
        self.threads: dict[Key, int] = {}
        self._named: list[tuple[int, int, str]] = []  # executor, thread, name
        threads: dict[tuple[int, int], int] = {}  # by executor and lane
        for key, lane in self._lanes.items():
            at = (lane.executor, lane.number)
            if at not in threads:
                threads[at] = self._new_threads(lane)
            self.threads[key] = threads[at]

    def _new_threads(self, lane: Track) -> int:
        """One for the lane and, for MPI workers, one for each rank behind it."""
        first = FIRST_THREAD + len(self._named)
        self._named.append((lane.executor, first, lane.name))
        ranks = max(len(worker.ranks) for worker in lane.workers)
        if ranks > 1:
            self._named += [(lane.executor, first + 1 + rank, lane.rank_name(rank)) for rank in range(ranks)]
        return first

    def names(self) -> Iterator[Event]:
        for executor in self._timeline.executors:
            about = executor.about
            kind = "block allocation" if executor.is_block else "a process for each call"
            workers = about.get("max_workers", "?")
            name = f"Executor {executor.number}: {kind}, {workers} worker{'' if workers == 1 else 's'}"
            yield _metadata("process_name", executor.number, 0, name=name)
        for executor_number, thread, name in self._named:
            yield _metadata("thread_name", executor_number, thread, name=name)
            yield _metadata("thread_sort_index", executor_number, thread, sort_index=thread)

    def lives(self) -> Iterator[Event]:
        """How the workers started."""
        for worker in self._timeline.workers:
            if worker.ready_ns <= 0:
                continue
            begun_ns = max(worker.started_ns, 0)
            yield {
                "name": "start of the worker",
                "cat": "worker",
                "ph": "X",
                "ts": _us(begun_ns),
                "dur": _us(worker.ready_ns - begun_ns),
                "pid": worker.executor,
                "tid": self.threads[worker.executor, worker.number],
                "args": {"worker": worker.number, "host": worker.host, "pid": worker.pid},
            }


def _metadata(what: str, executor: int, thread: int, **said: Any) -> Event:
    return {"name": what, "ph": "M", "pid": executor, "tid": thread, "args": said}


# ---- calls ----


def _call(call: Call, name: str, tracks: _Tracks) -> Iterator[str]:
    key = call.executor, call.worker
    thread = tracks.threads.get(key, 0)
    hosts = tracks.hosts.get(key) or ["null"]
    args = (
        f'{{"call":{call.number},"worker":{call.worker},"host":{hosts[0]},"outcome":"{call.outcome}","calls":{call.size}'
        f',"submitted_us":{call.submitted_ns / 1000}'
    )
    for what, time_ns in (("ready", call.ready_ns), ("sent", call.sent_ns), ("received", call.received_ns)):
        if time_ns is not None:
            args += f',"{what}_us":{time_ns / 1000}'
    if call.inputs is not None:
        args += f',"inputs":{list(call.inputs)}'
    where = f'"pid":{call.executor},"tid":{thread}'
    if call.started_ns is None:
        at_ns = call.submitted_ns if call.received_ns is None else call.received_ns
        yield f'{{"name":{name},"cat":"call","ph":"i","s":"p","ts":{at_ns / 1000},{where},"args":{args}}}}}'
        return
    end_ns = call.ended_ns
    if end_ns is None:  # it had not ended, or its worker died
        end_ns = call.received_ns
        args += ',"ended_us":null'
    if end_ns is None:
        phase = '"ph":"B"'
    else:
        phase = f'"ph":"X","dur":{max(end_ns - call.started_ns, 0) / 1000}'
    yield f'{{"name":{name},"cat":"call",{phase},"ts":{call.started_ns / 1000},{where},"args":{args}}}}}'
    begun_ns = call.started_ns
    for number, item_ns in enumerate(call.items_ns):
        duration = (item_ns - begun_ns) / 1000
        yield (
            f'{{"name":{name},"cat":"item","ph":"X","ts":{begun_ns / 1000},"dur":{duration},{where}'
            f',"args":{{"call":{call.number},"item":{number}}}}}'
        )
        begun_ns = item_ns
    for rank, ((rank_begun_ns, rank_ended_ns), host) in enumerate(zip(call.ranks_ns, hosts, strict=False)):
        yield (
            f'{{"name":{name},"cat":"rank","ph":"X","ts":{rank_begun_ns / 1000},"dur":{(rank_ended_ns - rank_begun_ns) / 1000}'
            f',"pid":{call.executor},"tid":{thread + 1 + rank},"args":{{"call":{call.number},"rank":{rank},"host":{host}}}}}'
        )


def _flow(arrow: int, source: Call, target: Call, tracks: _Tracks) -> Iterator[Event]:
    """An arrow between two calls; a flow event belongs to the slice around its time."""
    if source.started_ns is None or source.ended_ns is None or target.started_ns is None:
        return
    common = {"name": "result", "cat": "dependency", "id": arrow}
    source_thread = tracks.threads.get((source.executor, source.worker), 0)
    target_thread = tracks.threads.get((target.executor, target.worker), 0)
    last_ns = max(source.ended_ns - 1, source.started_ns)
    yield {**common, "ph": "s", "ts": _us(last_ns), "pid": source.executor, "tid": source_thread}
    yield {**common, "ph": "f", "bp": "e", "ts": _us(target.started_ns), "pid": target.executor, "tid": target_thread}


# ---- waiting ----


def _waiting(calls: Iterable[Call], names: dict[str, str]) -> Iterator[str]:
    """How calls waited, at most ROWS_MAX at a time."""
    open_until: list[int] = []
    for call in calls:  # in the order of submission
        end_ns = _waited_until(call)
        while open_until and open_until[0] <= call.submitted_ns:
            heapq.heappop(open_until)
        if end_ns is None or end_ns <= call.submitted_ns or len(open_until) >= ROWS_MAX:
            continue
        heapq.heappush(open_until, end_ns)
        local = f'{{"local":"{call.number:#x}"}}'  # to the executor: else it would stand outside of all
        common = f'"cat":"waiting","id2":{local},"pid":{call.executor},"tid":0'
        begin_ns = call.submitted_ns
        yield f'{{"name":{names[call.name]},"ph":"b","ts":{begin_ns / 1000},{common}}}'
        is_blocked = call.inputs is not None
        for what, until_ns in (
            ("waits for its inputs" if is_blocked else "is pickled", call.ready_ns),
            ("waits for a worker", call.sent_ns),
            ("waits in the worker's line", call.started_ns),
        ):
            last_ns = end_ns if until_ns is None else min(until_ns, end_ns)
            if last_ns > begin_ns:
                yield f'{{"name":"{what}","ph":"b","ts":{begin_ns / 1000},{common}}}'
                yield f'{{"name":"{what}","ph":"e","ts":{last_ns / 1000},{common}}}'
            begin_ns = max(last_ns, begin_ns)
        yield f'{{"name":{names[call.name]},"ph":"e","ts":{end_ns / 1000},{common}}}'


def _waited_until(call: Call) -> int | None:
    return call.received_ns if call.started_ns is None else call.started_ns


def _counters(executor: int, calls: list[Call], end_ns: int) -> Iterator[str]:
    """How many calls wait, and how many run, from the beginning of the trace to its end: viewers show what events span."""
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
    told_ns = -step_ns - 1
    for position, (at_ns, more_waiting, more_running) in enumerate(changes):
        waiting += more_waiting
        running += more_running
        if at_ns - told_ns > step_ns or position == len(changes) - 1:
            told_ns = at_ns
            yield (
                f'{{"name":"calls","ph":"C","ts":{at_ns / 1000},"pid":{executor},"tid":0'
                f',"args":{{"waiting":{waiting},"running":{running}}}}}'
            )
