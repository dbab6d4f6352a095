"""Assign workers to the tracks (rows) of a picture.

With block allocation each worker has a track of its own. Without it each call has a worker of its own, and there would
be as many tracks as calls. There, workers whose lives do not overlap share a track, so that there are as many tracks as
workers at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from pympipool.diagnostics.tracing.timeline import ExecutorRecord, Timeline, Worker

Key = tuple[int, int]
"""Numbers of executor and worker."""


class Track:
    """One track, with its workers in order."""

    def __init__(self, executor: int, number: int, title: str, host: str = "") -> None:
        self.executor = executor
        self.number = number
        self.title = title
        self.name = f"{title} on {host}" if host else title
        self.workers: list[Worker] = []

    def rank_name(self, rank: int) -> str:
        """Name one rank of the workers, with its host if all workers have that rank on the same host.

        The host of a rank need not be the host of rank 0.

        Examples:
            >>> track = Track(1, 1, "worker 7", "node1")
            >>> track.workers.append(Worker(1, 7, (("node1", 100), ("node2", 200)), 0, 0))
            >>> track.name, track.rank_name(1)
            ('worker 7 on node1', 'worker 7, rank 1 on node2')
        """
        hosts = {worker.ranks[rank][0] for worker in self.workers if rank < len(worker.ranks)}
        where = f" on {hosts.pop()}" if len(hosts) == 1 else ""
        return f"{self.title}, rank {rank}{where}"


def assign_tracks(timeline: Timeline) -> dict[Key, Track]:
    """Return the track of each worker, in the order of executors and tracks."""
    tracks: dict[Key, Track] = {}
    for executor in timeline.executors:
        workers = [worker for worker in timeline.workers if worker.executor == executor.number]
        tracks |= _of_executor(executor, workers, timeline.duration_ns)
    return tracks


def _of_executor(executor: ExecutorRecord, workers: Sequence[Worker], end_ns: int) -> dict[Key, Track]:
    tracks: dict[Key, Track] = {}
    free: list[tuple[int, int, Track]] = []  # when each track becomes free, as a heap
    count = 0
    for worker in sorted(workers, key=lambda worker: (worker.started_ns, worker.number)):
        if executor.is_block or not free or free[0][0] > worker.started_ns:
            count += 1
            if executor.is_block:
                track = Track(executor.number, count, f"worker {worker.number}", worker.host)
            else:
                track = Track(executor.number, count, f"place {count}")
        else:
            track = heapq.heappop(free)[2]
        track.workers.append(worker)
        tracks[executor.number, worker.number] = track
        gone_ns = end_ns if worker.gone_ns is None else worker.gone_ns
        heapq.heappush(free, (gone_ns, track.number, track))
    return tracks
