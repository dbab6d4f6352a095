"""What a trace knows: calls, workers, executors. The same whether it was just recorded or read from a file.

All times are in ns since the beginning of the trace, by the master's clock; None where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LIMIT = 200_000
"""Calls that are recorded unless the user says otherwise: about as many as a browser can still show."""

RETURNED, RAISED, CANCELLED, FAILED, UNFINISHED = "returned", "raised", "cancelled", "failed", "unfinished"
"""How a call may have ended. Failed: without an answer, because its worker died, an input failed or it could not be pickled.
Unfinished: it had not ended when the trace did."""


@dataclass(slots=True)
class Call:
    """One call, or the calls of a map that travelled together.

    Attributes:
        number: From 1, in the order of submission; unique in the trace.
        name: Of its function.
        executor: Number of its executor.
        worker: Number of the worker that was given it; 0: none was.
        size: Calls that it stands for.
        outcome: See above.
        submitted_ns: The user submitted it.
        ready_ns: The results of other calls that it needs were there, and its arguments were pickled.
        sent_ns: It was sent to a worker, which may have been busy still.
        started_ns: The worker took it; of one that died while it ran the call, about.
        ended_ns: The worker had its result pickled.
        received_ns: The master had its result, or knew otherwise that it had ended.
        inputs: Numbers of the calls whose results it needs, as far as they are in the trace; None: it needs none.
        items_ns: When the calls that it stands for ended, if they were long enough to be told apart.
        ranks_ns: When each rank of an MPI worker began and ended it.
    """

    number: int
    name: str
    executor: int
    worker: int
    size: int
    outcome: str
    submitted_ns: int
    ready_ns: int | None
    sent_ns: int | None
    started_ns: int | None
    ended_ns: int | None
    received_ns: int | None
    inputs: tuple[int, ...] | None = None
    items_ns: tuple[int, ...] = ()
    ranks_ns: tuple[tuple[int, int], ...] = ()

    @property
    def run_ns(self) -> int:
        """How long it ran; 0 if it did not, or nobody knows."""
        return 0 if self.started_ns is None or self.ended_ns is None else self.ended_ns - self.started_ns


@dataclass(slots=True)
class Worker:
    """One worker.

    Attributes:
        executor: Number of its executor.
        number: Its own there.
        ranks: Host and process id of each rank.
        started_ns: Its process was started.
        ready_ns: It could take calls.
        gone_ns: It had ended; None: it was there when the trace ended.
        clock_offset_ns: What was added to the times that it told, because its clock is another one; 0 on the master's host.
        clock_uncertainty_ns: How far that may be wrong.
        clocks: The same for the other hosts of its ranks: (host, shift, doubt) of each.
    """

    executor: int
    number: int
    ranks: tuple[tuple[str, int], ...]
    started_ns: int
    ready_ns: int
    gone_ns: int | None = None
    clock_offset_ns: int = 0
    clock_uncertainty_ns: int = 0
    clocks: tuple[tuple[str, int, int], ...] = ()

    @property
    def host(self) -> str:
        """Where rank 0 runs."""
        return self.ranks[0][0] if self.ranks else "?"

    @property
    def pid(self) -> int:
        """The process id of rank 0."""
        return self.ranks[0][1] if self.ranks else 0


@dataclass(slots=True)
class ExecutorPart:
    """One executor: its number, from 1, and what it was made with (`Executor.info`)."""

    number: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def is_block(self) -> bool:
        """Whether its workers serve many calls each."""
        return bool(self.about.get("block_allocation", True))


@dataclass(slots=True)
class Timeline:
    """A whole trace.

    Attributes:
        begun: When, by the wall clock: ISO 8601.
        duration_ns: How long it lasted.
        host, pid: Of the master.
        dropped: Calls that ended after as many as are recorded at most.
    """

    begun: str
    duration_ns: int
    host: str
    pid: int
    executors: list[ExecutorPart] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    dropped: int = 0
