"""How long things may take that workers do, as both pools see it, and who is ended after that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pympipool.serialization.exceptions import load_exception

if TYPE_CHECKING:
    from pympipool._core.dispatcher import Dispatcher
    from pympipool.pool.supervisor import Supervisor
    from pympipool.pool.worker_handle import WorkerHandle

LOGGER = logging.getLogger("pympipool.pool")

COLLECTIVE_GRACE_S = 2.0
"""How long ranks may go on with a call that raised in one of them: they may be stuck in a collective."""

WORKER_EXIT_GRACE_S = 5.0
"""How long a worker may take to end by itself when it is told to: `atexit` functions and MPI_Finalize run."""

SHORTEST_LOOK_S = 0.005
"""Between two looks at the time that a call has been running."""

IDLE_CHECK_S = 0.02
"""How often a pool that is to close by itself looks whether all calls have ended."""


def watch_for_stuck_ranks(keeper: Supervisor, dispatcher: Dispatcher, member: WorkerHandle, call: int) -> None:
    """A rank has raised: in a while, ends the worker if the others have not come back from the call."""

    def end_if_stuck() -> None:
        ranks = member.raised.pop(call, {})
        if not ranks or dispatcher.current_call(member.number) != call:
            return
        LOGGER.warning("worker %d: ranks %s raised, the others do not come back", member.number, sorted(ranks))
        first, *others = sorted(ranks)
        error = load_exception(ranks[first])
        for rank in others:
            other = load_exception(ranks[rank])
            add_traceback(error, other)
        keeper.end_member(member, reason=error)

    if len(member.raised[call]) == 1:
        keeper.after(COLLECTIVE_GRACE_S, end_if_stuck, member)


def watch_run_time(keeper: Supervisor, dispatcher: Dispatcher, member: WorkerHandle, limit_s: float | None) -> None:
    """Ends the worker when a call runs on it for longer than limit_s; None: never."""
    if limit_s is None:
        return

    def look() -> None:
        running_s = dispatcher.running_time(member.number)
        if running_s < limit_s:
            keeper.after(max(limit_s - running_s, SHORTEST_LOOK_S), look, member)
            return
        LOGGER.warning("worker %d: its call runs longer than run_time_max=%s s", member.number, limit_s)
        keeper.end_member(member, reason=TimeoutError(f"the call ran longer than run_time_max={limit_s} s"))

    keeper.after(limit_s, look, member)


def add_traceback(error: BaseException, other: BaseException) -> None:
    """Shows another rank's traceback together with the error's own."""
    if error.__cause__ is not None and other.__cause__ is not None:
        error.__cause__ = type(error.__cause__)(f"{error.__cause__}\n{other.__cause__}")
