"""Which track of a picture shows which worker.

With block allocation each worker has its own. Where each call has a worker of its own there would be as many tracks as
calls: there, workers that lived one after the other share one, so that there are as many as lived at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from pympipool.diagnostics.tracing.timeline import ExecutorPart, Timeline, Worker

Key = tuple[int, int]
"""Executor and worker."""


class Track:
    """One track: the workers on it, in order."""

    def __init__(self, executor: int, number: int, title: str, host: str = "") -> None:
        self.executor = executor
        self.number = number
        self.title = title
        self.name = f"{title} on {host}" if host else title
        self.workers: list[Worker] = []

    def rank_name(self, rank: int) -> str:
        """What to call one rank of its workers, with its host (which need not be that of rank 0) if that is always the same.

        Examples:
            >>> lane = Track(1, 1, "worker 7", "node1")
            >>> lane.workers.append(Worker(1, 7, (("node1", 100), ("node2", 200)), 0, 0))
            >>> lane.name, lane.rank_name(1)
            ('worker 7 on node1', 'worker 7, rank 1 on node2')
        """
        hosts = {worker.ranks[rank][0] for worker in self.workers if rank < len(worker.ranks)}
        where = f" on {hosts.pop()}" if len(hosts) == 1 else ""
        return f"{self.title}, rank {rank}{where}"


def lay_out(timeline: Timeline) -> dict[Key, Track]:
    """The lane of each worker, in the order of executors and lanes."""
    lanes: dict[Key, Track] = {}
    for executor in timeline.executors:
        workers = [worker for worker in timeline.workers if worker.executor == executor.number]
        lanes |= _of_executor(executor, workers, timeline.duration_ns)
    return lanes


def _of_executor(executor: ExecutorPart, workers: Sequence[Worker], end_ns: int) -> dict[Key, Track]:
    lanes: dict[Key, Track] = {}
    free: list[tuple[int, int, Track]] = []
    count = 0
    for worker in sorted(workers, key=lambda one: (one.started_ns, one.number)):
        if executor.is_block or not free or free[0][0] > worker.started_ns:
            count += 1
            if executor.is_block:
                lane = Track(executor.number, count, f"worker {worker.number}", worker.host)
            else:
                lane = Track(executor.number, count, f"place {count}")
        else:
            lane = heapq.heappop(free)[2]
        lane.workers.append(worker)
        lanes[executor.number, worker.number] = lane
        gone_ns = end_ns if worker.gone_ns is None else worker.gone_ns
        heapq.heappush(free, (gone_ns, lane.number, lane))
    return lanes
