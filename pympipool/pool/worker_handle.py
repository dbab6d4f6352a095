"""A worker as its pool sees it: its process, its connections, its last output.

STARTING ── all ranks ready ──> SERVING ── told to exit ──> ENDING
└───────────────┬─────────────┴────────────────────────────┘
└── process or connection gone ──> GONE
"""

from __future__ import annotations

import enum
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool.pool.event_loop import HandlerGroup
from pympipool.pool.output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pympipool._core.future import Future
    from pympipool._core.ring import Segment
    from pympipool._util.clocks import RunningClock
    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.pool.event_loop import EventLoop, Timer
    from pympipool.pool.output import OutputWriter
    from pympipool.pool.reported_error import Failure
    from pympipool.transport.control_server import Connection
    from pympipool.transport.relayed_connection import RelayedConnection
    from pympipool.transport.shm import ShmLink

STDERR_LINES = 20
"""Lines of a worker's stderr that an error message about its death quotes."""

WORKER_EXIT_GRACE_S = 5.0
"""Time that a worker has to exit by itself once it was told to: it runs `atexit` functions and MPI_Finalize."""


class State(enum.Enum):
    """The stages of a worker's life."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    ENDING = enum.auto()
    GONE = enum.auto()


class WorkerHandle:
    """A worker of a pool. Only for the supervisor's thread.

    Attributes:
        request: What it was started with.
        worker_id: The id that calls see: a small number that no other running worker has.
        process: Its process (of an MPI worker: mpiexec).
        link: Its segment; None until it has connected, if only then is known which it needs.
        connections: The control connection of each rank that has authenticated itself.
        ready_ranks: What each rank reported when it was ready: pid, host, rank.
        start_round: In which round of starts the pool has started it (see `block_pool.START_ATTEMPTS`).
        start_error: The exception that kept the worker from starting, as the worker reported it.
        rank_errors: Exceptions that ranks reported while the call still runs on others: {call: {rank: parts}}.
        exit_reason: Why the worker exits without having been told to, as it reported; None if it did not report that.
        first_failed_rank: The rank whose connection ended first; None while all are connected.
        lost_reason: Why the relay gave a rank up; None if it did not.
        exit_code: Of that rank, else of the process, once the worker is gone (-N: killed by signal N); None if unknown.
        killed_for: The time since its processes were first sent SIGKILL; None before.
        end_check: The timer that looks whether it has ended since.
        process_ended: True once the process has exited. Its last frames may still be on their way.
        stderr_tail: The last lines of its stderr.
        kill_reason: The exception of its call when the pool kills the worker on purpose.
        state_before_end: Its state before it was gone.
        assignment: What the pool uses the worker for: its allocation, or the single call that it was started for.
        handlers: The group of the handlers of what happens to it. If one fails, the worker is ended. Its timers are cancelled
            when the worker is gone: they would keep it in memory, and wake the thread in vain.
        interrupted: The futures of the calls that it had begun when it was gone.
        ended_calls: The number of calls that had ended on it when it was gone.
        is_retiring: True once it is to exit after its running call: it is redundant, or has begun its last call.
        runs_cancelled: It is killed because the user has cancelled the call that it runs.
    """

    def __init__(
        self,
        request: LaunchRequest,
        process: WorkerProcess,
        link: ShmLink | None,
        writers: Mapping[str, OutputWriter],
        loop: EventLoop,
    ) -> None:
        self.request = request
        self.number = request.number
        self.worker_id = 0
        self.process = process
        self.link = link
        self.state = State.STARTING
        self.state_before_end = State.STARTING
        self.started_s = monotonic()
        self.connections: dict[int, Connection | RelayedConnection] = {}
        self.ready_ranks: dict[int, dict[str, Any]] = {}
        self.start_round = 0
        self.start_error: Failure | None = None
        self.rank_errors: dict[int, dict[int, list[Any]]] = {}
        self.exit_reason: str | None = None
        self.first_failed_rank: int | None = None
        self.lost_reason: str | None = None
        self.exit_code: int | None = None
        self.killed_for: RunningClock | None = None
        self.end_check: Timer | None = None
        self.process_ended = False
        self.stderr_tail: deque[str] = deque(maxlen=STDERR_LINES)
        self.kill_reason: Failure | None = None
        self.assignment: Any = None
        self.handlers = HandlerGroup()
        self.interrupted: list[Future[Any]] = []
        self.ended_calls = 0
        self.is_retiring = False
        self.runs_cancelled = False
        self.outputs = [
            Output(process.stdout, writers["stdout"], None, loop, self.handlers),
            Output(process.stderr, writers["stderr"], self.stderr_tail, loop, self.handlers),
        ]

    def trace_metadata(self) -> dict[str, Any]:
        """Return what a trace records about the worker: its start (monotonic clock, ns), host and pid of each rank."""
        ranks = [self.ready_ranks[rank] for rank in sorted(self.ready_ranks)]
        return {"started_ns": int(self.started_s * 1e9), "ranks": [(rank["host"], rank["pid"]) for rank in ranks]}

    def read_output_to_end(self) -> None:
        """Do not let the worker wait until its output is written: it is about to exit."""
        for output in self.outputs:
            output.read_to_end()

    def hand_over_link(self) -> None:
        """Close the descriptor of the link: all ranks have got it."""
        if self.link is not None:
            self.link.handed_over()

    @property
    def segment(self) -> Segment:
        """The memory of the link."""
        assert self.link is not None
        return self.link.segment

    def release(self) -> None:
        """Release the memory of the link, and the calls: references to the handle may live on for a while."""
        self.link = None
        self.assignment = None
        self.interrupted = []

    @property
    def was_killed(self) -> bool:
        """True once its processes were sent SIGKILL."""
        return self.killed_for is not None

    @property
    def hosts(self) -> list[str]:
        """The hosts of the ranks that are ready, in the order of the ranks, each host once."""
        return list(dict.fromkeys(self.ready_ranks[rank]["host"] for rank in sorted(self.ready_ranks)))

    @property
    def host(self) -> str | None:
        """Host of the first failed rank, else of rank 0."""
        host: str | None = self._rank_info().get("host")
        return host

    @property
    def pid(self) -> int | None:
        """Process id of the first failed rank, else of rank 0."""
        pid: int | None = self._rank_info().get("pid")
        return pid

    def _rank_info(self) -> dict[str, Any]:
        return self.ready_ranks.get(self.first_failed_rank or 0, {})
