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

SHORTEST_LOOK_S = 0.005
"""Between two looks at the time that a call has been running."""

IDLE_CHECK_S = 0.02
"""How often a pool that is to close by itself looks whether all calls have ended."""


def watch_for_stuck_ranks(supervisor: Supervisor, dispatcher: Dispatcher, worker: WorkerHandle, call: int) -> None:
    """A rank has raised: in a while, ends the worker if the others have not come back from the call."""

    def end_if_stuck() -> None:
        ranks = worker.rank_errors.pop(call, {})
        if not ranks or dispatcher.current_call(worker.number) != call:
            return
        LOGGER.warning("worker %d: ranks %s raised, the others do not come back", worker.number, sorted(ranks))
        first, *others = sorted(ranks)
        error = load_exception(ranks[first])
        for rank in others:
            other = load_exception(ranks[rank])
            add_traceback(error, other)
        supervisor.end_worker(worker, reason=error)

    if len(worker.rank_errors[call]) == 1:
        supervisor.after(COLLECTIVE_GRACE_S, end_if_stuck, worker)


def watch_run_time(supervisor: Supervisor, dispatcher: Dispatcher, worker: WorkerHandle, limit_s: float | None) -> None:
    """Ends the worker when a call runs on it for longer than limit_s; None: never."""
    if limit_s is None:
        return

    def look() -> None:
        running_s = dispatcher.running_time(worker.number)
        if running_s < limit_s:
            supervisor.after(max(limit_s - running_s, SHORTEST_LOOK_S), look, worker)
            return
        LOGGER.warning("worker %d: its call runs longer than run_time_max=%s s", worker.number, limit_s)
        supervisor.end_worker(worker, reason=TimeoutError(f"the call ran longer than run_time_max={limit_s} s"))

    supervisor.after(limit_s, look, worker)


def add_traceback(error: BaseException, other: BaseException) -> None:
    """Shows another rank's traceback together with the error's own."""
    if error.__cause__ is not None and other.__cause__ is not None:
        error.__cause__ = type(error.__cause__)(f"{error.__cause__}\n{other.__cause__}")
