"""One worker as its pool sees it: its process, its connections, what it said last.

STARTING ── all ranks ready ──> SERVING ── told to end ──> ENDING
└───────────────┬─────────────┴───────────────────────────┘
└── process or connection gone ──> GONE
"""

from __future__ import annotations

import enum
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool.pool.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.transport.control_server import Connection
    from pympipool.transport.shm import ShmLink

STDERR_LINES = 20
"""Lines of a worker's stderr that an error message about its death quotes."""

WORKER_EXIT_GRACE_S = 5.0
"""Time that a worker has to exit by itself once it was told to. It runs `atexit` functions and MPI_Finalize meanwhile."""


class State(enum.Enum):
    """Where in its life a worker is."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    ENDING = enum.auto()
    GONE = enum.auto()


class WorkerHandle:
    """A worker of a pool. Used by the supervisor's thread only.

    Attributes:
        order: what it was started with.
        process: its process (of an MPI worker: mpiexec).
        link: its segment.
        connections: control connection of each rank that has greeted.
        ready_ranks: what each rank said of itself when it was ready: pid, host, rank.
        start_error: the exception that kept it from starting, as it reported it.
        raised: exceptions reported by ranks while the call still runs: {call: {rank: parts}}.
        leaving: why it ends without having been told to, as it says; None as long as it does not.
        first_failed_rank: the rank whose connection ended first, None as long as all are there.
        lost: how sight of a rank was lost, as its stand-in says; None as long as it was not.
        exit_code: of that rank, else of the process, once the worker is gone (-N: ended by signal N); None when unknown.
        process_ended: its process has; what it said last may still be on its way.
        lines: the last lines of its stderr.
        kill_reason: the exception of its call when the pool ends it on purpose.
        state_before_end: its state when it came to be gone.
        purpose: the pool's own: what a worker for a single call was started for.
        timers: what is to be done about it at some time.
    """

    def __init__(self, order: LaunchRequest, process: WorkerProcess, link: ShmLink) -> None:
        self.order = order
        self.number = order.number
        self.process = process
        self.link = link
        self.state = State.STARTING
        self.state_before_end = State.STARTING
        self.started_s = monotonic()
        self.connections: dict[int, Connection] = {}
        self.ready_ranks: dict[int, dict[str, Any]] = {}
        self.start_error: BaseException | None = None
        self.rank_errors: dict[int, dict[int, list[Any]]] = {}
        self.exit_reason: str | None = None
        self.first_failed_rank: int | None = None
        self.lost_reason: str | None = None
        self.exit_code: int | None = None
        self.process_ended = False
        self.stderr_tail: deque[str] = deque(maxlen=STDERR_LINES)
        self.kill_reason: BaseException | None = None
        self.assignment: Any = None
        self.timers: set[Timer] = set()
        self.outputs = [Output(process.stdout, "stdout", None), Output(process.stderr, "stderr", self.stderr_tail)]

    def trace_metadata(self) -> dict[str, Any]:
        """What a trace tells of it: when it was started (monotonic clock, ns), host and process id of each rank."""
        ranks = [self.ready_ranks[rank] for rank in sorted(self.ready_ranks)]
        return {"started_ns": int(self.started_s * 1e9), "ranks": [(said["host"], said["pid"]) for said in ranks]}

    def release(self) -> None:
        """Gives back the memory of the link, and the call: somebody may refer to the worker for a while yet."""
        del self.link
        self.assignment = None

    @property
    def hosts(self) -> list[str]:
        """Where the ranks run that are ready, in their order, each host once."""
        return list(dict.fromkeys(self.ready_ranks[rank]["host"] for rank in sorted(self.ready_ranks)))

    @property
    def host(self) -> str | None:
        """Where its first lost rank, else rank 0, ran."""
        host: str | None = self._rank_info().get("host")
        return host

    @property
    def pid(self) -> int | None:
        """Process id of its first lost rank, else of rank 0."""
        pid: int | None = self._rank_info().get("pid")
        return pid

    def _rank_info(self) -> dict[str, Any]:
        return self.ready_ranks.get(self.first_failed_rank or 0, {})


class Timer:
    """Something to be done at a time; for a worker, only as long as that is not gone.

    A worker that is gone takes its timers along: they would keep it in memory, and wake the thread for nothing.
    """

    __slots__ = ("function", "worker")

    def __init__(self, function: Callable[[], None], worker: WorkerHandle | None) -> None:
        self.function: Callable[[], None] | None = function
        self.worker = worker
        if worker is not None:
            worker.timers.add(self)

    def run(self) -> None:
        """Does it, unless it was forgotten."""
        function = self.function
        self.forget()
        if function is not None:
            function()

    def forget(self) -> None:
        """Lets go of everything it refers to; it does nothing from here on."""
        if self.worker is not None:
            self.worker.timers.discard(self)
        self.function = self.worker = None
