"""Time limits that both pools watch, and what is done about a worker that exceeds one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pympipool._util.service_threads import ServiceLogger
from pympipool.pool.reported_error import ReportedError
from pympipool.serialization.exceptions import join_exceptions

if TYPE_CHECKING:
    from pympipool._core.dispatcher import Dispatcher
    from pympipool.pool.supervisor import Supervisor
    from pympipool.pool.worker_handle import WorkerHandle

LOGGER = ServiceLogger("pympipool.pool")

COLLECTIVE_GRACE_S = 2.0
"""Time that the other ranks have to return from a call that raised on one rank: they may be stuck in a collective."""

SHORTEST_CHECK_S = 0.005
"""Shortest interval between two checks of a call's running time."""


def watch_for_stuck_ranks(supervisor: Supervisor, dispatcher: Dispatcher, worker: WorkerHandle, call: int) -> None:
    """Kill a worker one of whose ranks has raised, unless the other ranks return from the call within a grace period."""

    def end_if_stuck() -> None:
        errors = worker.rank_errors.pop(call, {})
        if len(errors) == worker.request.ranks:  # all have raised, and none is stuck; their answer may be large
            return
        if not errors or not dispatcher.condemn_call(worker.number, call):
            return
        ranks = sorted(errors)
        LOGGER.warning("worker %d: ranks %s raised, the others do not come back", worker.number, ranks)
        reported = ReportedError(join_exceptions([errors[rank] for rank in ranks]))
        supervisor.end_worker(worker, reason=reported)

    if len(worker.rank_errors[call]) == 1:
        supervisor.loop.call_later(COLLECTIVE_GRACE_S, end_if_stuck, worker.handlers)


def watch_run_time(supervisor: Supervisor, dispatcher: Dispatcher, worker: WorkerHandle, limit_s: float | None) -> None:
    """Kill the worker when a call runs on it for longer than limit_s; None: never."""
    if limit_s is None:
        return

    def check() -> None:
        call = dispatcher.current_call(worker.number)
        running_s = dispatcher.running_time(worker.number)  # of a later call if that one has ended meanwhile
        if running_s < limit_s or not dispatcher.condemn_call(worker.number, call):
            supervisor.loop.call_later(max(limit_s - running_s, SHORTEST_CHECK_S), check, worker.handlers)
            return
        LOGGER.warning("worker %d: its call runs longer than run_time_max=%s s", worker.number, limit_s)
        supervisor.end_worker(worker, reason=TimeoutError(f"the call ran longer than run_time_max={limit_s} s"))

    supervisor.loop.call_later(limit_s, check, worker.handlers)
