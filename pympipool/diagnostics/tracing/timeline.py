"""The data of a trace: calls, workers, executors. It is the same whether it was just recorded or loaded from a file.

All times are in ns since the start of the trace, by the master's clock. A time is None where the event did not happen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

LIMIT = 200_000
"""Default limit of recorded calls: about as many as a browser can still show."""

RETURNED, ERROR, CANCELLED, LOST, UNFINISHED = "returned", "error", "cancelled", "lost", "unfinished"
"""Outcomes of a call.

Error: the function raised. Lost: there is no answer of the function, because the worker died, an input has no result,
or the call could not be pickled. Unfinished: the call had not ended when the trace did.
"""


@dataclass(slots=True)
class Call:
    """One call, or several calls of a map that travelled in one message.

    Attributes:
        number: Number of the call, from 1 in the order of submission; unique in the trace.
        name: Name of its function.
        executor: Number of its executor.
        worker: Number of the worker that it was sent to; 0 if it was sent to none.
        size: Number of calls in the message.
        outcome: "returned", "error" (the function raised), "cancelled", "lost" (there is no answer: the worker died, an
            input has no result, or the call could not be pickled), or "unfinished" (it had not ended when the trace
            did).
        submitted_ns: The user submitted it.
        ready_ns: The results of other calls that it needs were there, and its arguments were pickled.
        sent_ns: It was sent to a worker, which may still have been busy.
        started_ns: The worker started it; approximate for a call during which the worker died.
        ended_ns: The worker had pickled its result.
        received_ns: The master had its result, or learned in another way that it had ended.
        inputs: Numbers of the calls whose results it needs, as far as they are in the trace; None if it needs none.
        items_ns: End of each call in the message, if they were long enough to be told apart.
        ranks_ns: Start and end on each rank of an MPI worker.
        argument_bytes: Size of what was sent: the pickled arguments, and the function unless the worker had it. None in traces
            of earlier versions, and for calls that were not pickled.
        result_bytes: Size of the pickled result or exception; None if there is no answer.
        imports_ns: Packages that the call imported, each with the time that took; of an MPI worker on rank 0. They are those that
            the call asked for: the time of numpy counts for ase, if ase imports it.
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
    argument_bytes: int | None = None
    result_bytes: int | None = None
    imports_ns: dict[str, int] = field(default_factory=dict)

    @property
    def run_ns(self) -> int:
        """The run time; 0 if the call did not run, or its end is unknown."""
        return 0 if self.started_ns is None or self.ended_ns is None else self.ended_ns - self.started_ns

    @property
    def import_ns(self) -> int:
        """The part of the run time in which the call imported modules."""
        return min(sum(self.imports_ns.values()), self.run_ns)


@dataclass(slots=True)
class Worker:
    """One worker.

    Attributes:
        executor: Number of its executor.
        number: Number of the worker in its executor.
        ranks: Host and process id of each rank.
        started_ns: Its process was started.
        ready_ns: It could take calls.
        gone_ns: It had ended; None if it was still there when the trace ended.
        clock_offset_ns: Added to the times that the worker reported, because its host has another clock; 0 on the
            master's host.
        clock_uncertainty_ns: Largest error of that offset.
        clocks: Host, offset and uncertainty for each other host of its ranks.
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
        """The host of rank 0."""
        return self.ranks[0][0] if self.ranks else "?"

    @property
    def pid(self) -> int:
        """The process id of rank 0."""
        return self.ranks[0][1] if self.ranks else 0

    @property
    def shift_ns(self) -> int:
        """Deprecated name of `clock_offset_ns`."""
        _warn_renamed("Worker.shift_ns", "clock_offset_ns")
        return self.clock_offset_ns

    @property
    def doubt_ns(self) -> int:
        """Deprecated name of `clock_uncertainty_ns`."""
        _warn_renamed("Worker.doubt_ns", "clock_uncertainty_ns")
        return self.clock_uncertainty_ns


@dataclass(slots=True)
class ExecutorRecord:
    """One executor: its number, from 1, and the parameters it was made with (`Executor.info`)."""

    number: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def is_block(self) -> bool:
        """True with block allocation: each worker serves many calls."""
        return bool(self.info.get("block_allocation", True))


@dataclass(slots=True)
class Timeline:
    """A whole trace.

    Attributes:
        start_time: Wall-clock time of its start, ISO 8601.
        duration_ns: Its duration.
        host, pid: Host and process id of the master.
        executors: The executors that ran calls.
        workers: Their workers.
        calls: Their calls, in the order of submission.
        dropped: Number of calls beyond the limit of the trace, which were counted but not recorded.
        shared_bytes: The most bytes of data that the script shared at a time (`pympipool.share` and `shared_array`).
    """

    start_time: str
    duration_ns: int
    host: str
    pid: int
    executors: list[ExecutorRecord] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    dropped: int = 0
    shared_bytes: int = 0

    @property
    def begun(self) -> str:
        """Deprecated name of `start_time`."""
        _warn_renamed("Timeline.begun", "start_time")
        return self.start_time

    @property
    def length_ns(self) -> int:
        """Deprecated name of `duration_ns`."""
        _warn_renamed("Timeline.length_ns", "duration_ns")
        return self.duration_ns


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
