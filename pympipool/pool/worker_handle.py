"""One worker as its pool sees it: its process, its connections, what it said last.

STARTING ── all ranks ready ──> SERVING ── told to end ──> ENDING
└───────────────┬─────────────┴───────────────────────────┘
└── process or connection gone ──> GONE
"""

from __future__ import annotations

import codecs
import enum
import sys
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.backends.spawner import LaunchRequest, WorkerProcess
    from pympipool.transport.control_server import Connection
    from pympipool.transport.shm import ShmLink

STDERR_LINES = 20
"""Lines of a worker's stderr that an error message about its death quotes."""

READ_BYTES = 1 << 16

DRAIN_READS = 1000
"""Reads after a worker's end; more only a surviving child of it could fill."""


class State(enum.Enum):
    """Where in its life a worker is."""

    STARTING = enum.auto()
    SERVING = enum.auto()
    ENDING = enum.auto()
    GONE = enum.auto()


class WorkerHandle:
    """A worker of a pool. Used by the keeper's thread only.

    Attributes:
        order: what it was started with.
        process: its process (of an MPI worker: mpiexec).
        link: its segment.
        connections: control connection of each rank that has greeted.
        ready_ranks: what each rank said of itself when it was ready: pid, host, rank.
        start_error: the exception that kept it from starting, as it reported it.
        raised: exceptions reported by ranks while the call still runs: {call: {rank: parts}}.
        leaving: why it ends without having been told to, as it says; None as long as it does not.
        lost_rank: the rank whose connection ended first, None as long as all are there.
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
        self.raised: dict[int, dict[int, list[Any]]] = {}
        self.leaving: str | None = None
        self.lost_rank: int | None = None
        self.lost: str | None = None
        self.exit_code: int | None = None
        self.process_ended = False
        self.lines: deque[str] = deque(maxlen=STDERR_LINES)
        self.kill_reason: BaseException | None = None
        self.purpose: Any = None
        self.timers: set[Timer] = set()
        self.outputs = [Output(process.stdout, "stdout", None), Output(process.stderr, "stderr", self.lines)]

    def about(self) -> dict[str, Any]:
        """What a trace tells of it: when it was started (monotonic clock, ns), host and process id of each rank."""
        ranks = [self.ready_ranks[rank] for rank in sorted(self.ready_ranks)]
        return {"started_ns": int(self.started_s * 1e9), "ranks": [(said["host"], said["pid"]) for said in ranks]}

    def release(self) -> None:
        """Gives back the memory of the link, and the call: somebody may refer to the member for a while yet."""
        del self.link
        self.purpose = None

    @property
    def hosts(self) -> list[str]:
        """Where the ranks run that are ready, in their order, each host once."""
        return list(dict.fromkeys(self.ready_ranks[rank]["host"] for rank in sorted(self.ready_ranks)))

    @property
    def host(self) -> str | None:
        """Where its first lost rank, else rank 0, ran."""
        host: str | None = self._said().get("host")
        return host

    @property
    def pid(self) -> int | None:
        """Process id of its first lost rank, else of rank 0."""
        pid: int | None = self._said().get("pid")
        return pid

    def _said(self) -> dict[str, Any]:
        return self.ready_ranks.get(self.lost_rank or 0, {})


class Timer:
    """Something to be done at a time; for a worker, only as long as that is not gone.

    A worker that is gone takes its timers along: they would keep it in memory, and wake the thread for nothing.
    """

    __slots__ = ("function", "member")

    def __init__(self, function: Callable[[], None], member: WorkerHandle | None) -> None:
        self.function: Callable[[], None] | None = function
        self.member = member
        if member is not None:
            member.timers.add(self)

    def run(self) -> None:
        """Does it, unless it was forgotten."""
        function = self.function
        self.forget()
        if function is not None:
            function()

    def forget(self) -> None:
        """Lets go of everything it refers to; it does nothing from here on."""
        if self.member is not None:
            self.member.timers.discard(self)
        self.function = self.member = None


class Output:
    """Passes what a worker prints on to the user's own stream, whatever that is at the time."""

    def __init__(self, pipe: BinaryIO | None, name: str, lines: deque[str] | None) -> None:
        self.pipe = pipe
        self.name = name
        self.lines = lines
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.unfinished = ""
        self.muted = False

    def forward(self) -> bool:
        """Passes on what is there; False when the pipe has ended."""
        data = self._read()
        if data:
            self._take(data)
        return data != b""

    def mute(self) -> None:
        """Passes on what is there, and nothing that comes later."""
        self.forward()
        self.muted = True

    def drain(self) -> None:
        """Passes on what is left and closes the pipe."""
        for _ in range(DRAIN_READS):
            data = self._read()
            if not data:
                break
            self._take(data)
        if self.lines is not None and self.unfinished.strip():
            self.lines.append(self.unfinished)
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def _read(self) -> bytes | None:
        """What is there; None when there is nothing yet, empty when the pipe has ended."""
        if self.pipe is None:
            return b""
        try:
            return self.pipe.read(READ_BYTES)
        except (OSError, ValueError):
            return b""

    def _take(self, data: bytes) -> None:
        text = self.decoder.decode(data)
        self._write(text)
        if self.lines is not None:
            *whole, self.unfinished = (self.unfinished + text).split("\n")
            self.lines.extend(line for line in whole if line.strip())

    def _write(self, text: str) -> None:
        stream: TextIO | None = getattr(sys, self.name, None)
        if stream is None or self.muted:
            return
        try:
            stream.write(text)
            stream.flush()
        except Exception:
            pass  # the user's own stream, of whatever kind, is closed or full: his output is lost, not his call
