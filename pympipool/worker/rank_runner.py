"""Running a call on one rank of a worker, and what follows if its ranks end it in different ways."""

from __future__ import annotations

import functools
from time import monotonic_ns

from pympipool._core.ring import ERROR, RESULT
from pympipool._util.cmodules import signal
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import dump
from pympipool.serialization.tracebacks import describe_place
from pympipool.worker.setup import report_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pympipool.transport.control_client import Control, Link
    from pympipool.worker.call_runner import CallRunner

FINALIZE_TIMEOUT_S = 2
"""Time that ranks that have diverged have to exit. MPI_Finalize may wait forever for a message that another rank received."""

RANKS_DIVERGED_REASON = (
    "a call raised on some of its ranks only, or at different places, which may have left messages between them for the"
    " next call"
)

RETURNED = b""
"""The place at which a call ended on a rank if its function returned there."""


class RankRunner:
    """Runs calls on this rank, and reports those that raise to the master.

    Args:
        calls: Runs the calls.
        control: The control connection of this rank.
        rank: The number of this rank.
        location: Worker, rank, host and process id, for tracebacks.
        root_only: The result of a call is that of rank 0. Other ranks answer with an empty part when a call has returned.
        channel: The link, if this rank has it.

    Attributes:
        start_ns: When the call began, by the monotonic clock. Set before `run`, which sets it again after the function was
            unpickled for the first time.
    """

    def __init__(
        self,
        calls: CallRunner,
        control: Control,
        rank: int,
        location: str,
        *,
        root_only: bool = False,
        channel: Link | None = None,
    ) -> None:
        self.calls = calls
        self.calls.on_loaded = self._restart_clock
        self.start_ns = 0
        self._channel = channel
        self.rank = rank
        self.root_only = root_only
        self.is_silent = root_only and rank > 0
        self._control = control
        self._location = location

    def _restart_clock(self) -> None:
        self.start_ns = monotonic_ns()
        if self._channel is not None:
            self._channel.restart_clock()

    def run(self, call: int, number: int, parts: list[Any]) -> tuple[int, list[Any]]:
        """Run a call. Empties its parts.

        Args:
            call: The id of the call.
            number: The number of its function.
            parts: Its arguments.

        Returns:
            RESULT and the parts of the result, or ERROR and those of the exception with one more: the place at which the call
            ended on this rank.
        """
        try:
            result = self.calls.run(number, parts)
        except BaseException as error:  # SystemExit too, as in concurrent.futures
            return self.raised(call, error)
        return self.returned(result)

    def raised(self, call: int, error: BaseException) -> tuple[int, list[Any]]:
        """Report that a call has raised, and return as `run`."""
        send = functools.partial(self._control.send_rank_error, self.rank, call)
        return ERROR, [*report_error(send, error, self._location), describe_place(error)]

    def returned(self, result: Any) -> tuple[int, list[Any]]:
        """Return as `run` for a call that has returned."""
        if self.is_silent:
            return RESULT, [b""]
        try:
            return RESULT, dump(result, "the result")
        except BaseException as error:  # no other rank waits for this one: the function has returned
            return ERROR, [*dump_exception(error, self._location), RETURNED]

    def drop_released(self) -> None:
        """Drop the shared data that have ended, on a rank that has no channel to be told by."""
        self._control.drop_released()

    def announce_exit(self, reason: str) -> None:
        """Tell the master that this worker exits without having been told to."""
        self._control.send_exiting(reason)


def outcome_of(place: bytes) -> int:
    """Return a number for the place at which a call ended on a rank: 0 if its function returned."""
    if place == RETURNED:
        return 0
    from _blake2 import blake2b

    return int.from_bytes(blake2b(place, digest_size=6).digest(), "little") or 1


def end_diverged(runner: RankRunner) -> None:
    """Tell the master that the worker exits because its ranks have diverged, and give it limited time to do so."""
    if runner.rank == 0:
        runner.announce_exit(RANKS_DIVERGED_REASON)
        exit_within(FINALIZE_TIMEOUT_S)


def exit_within(limit_s: int) -> None:
    """Kill this process after limit_s, and with it the worker, if it has not exited before: MPI_Finalize may not return."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit_s)
