"""The pool of block allocation: a fixed number of workers that serve many calls.

    open ── workers are started ──> on_ready: the dispatcher gets another worker
                                    on_gone:  the worker's running call fails, a new worker is started
    close ── no new calls; after the last one, workers are told to exit ──> closed

With an `idle_timeout`, a worker that has no call for so long ends, and the pool wants one worker less. When there are more
calls than workers, it wants more again, up to max_workers.

A worker that has begun its last call (`max_tasks_per_child`) gets no more calls, and is replaced when it has exited. A worker
that dies is replaced at once. Workers that die before they were ready, or soon afterwards before they have begun a call, are
replaced after a delay that doubles each time. When `START_ATTEMPTS` rounds of starts in a row have brought no worker, the
pool is broken: all calls that wait or are submitted later fail with the reason. A shortage of the system does not break it
(see `shortages.py`).
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._util.service_threads import ServiceLogger
from pympipool.pool.base import IDLE_CHECK_S, BasePool
from pympipool.pool.failures import (
    log_exit,
    one_for_each_call,
    redacted_summary,
    start_error,
    state_lost_error,
)
from pympipool.pool.idle_workers import IdleWorkers
from pympipool.pool.shortages import OutageError, Shortage, shortage_error, shortage_of
from pympipool.pool.timeouts import watch_run_time
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.serialization.exceptions import STATE_LOST_NOTE
from pympipool.serialization.tracebacks import without_frames
from pympipool.worker.setup import has_start_functions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.backends.spawner import Spawner
    from pympipool.pool.event_loop import Timer
    from pympipool.pool.reported_error import Failure
    from pympipool.resources import ResourceAllocator, Resources

LOGGER = ServiceLogger("pympipool.pool")

START_ATTEMPTS = 5
"""Rounds of starts in a row that may bring no worker before the pool is broken. All workers that are started before the
first of them has failed belong to one round: usually they fail for the same reason."""

RESTART_DELAY_S = 0.1
"""Delay before the pool replaces a worker that failed to start; doubles with each further failure, of the first ten."""

RESTART_DELAY_MAX_S = 10.0
"""Longest delay before the pool replaces a worker that failed to start. One that lived longer is replaced at once."""

RETIRED_CHECK_S = 0.5
"""Polling interval while a retiring worker finishes its last call."""

START_MAX = 64
"""Workers that are started in a row, before those that run already get their turn."""


def restart_delay_s(rounds: int) -> float:
    """Return the delay after so many rounds that have failed: any number, as while no call begins rounds may fail for ever."""
    return min(RESTART_DELAY_S * 2.0 ** min(rounds, 10), RESTART_DELAY_MAX_S)


class BlockPool(BasePool["Spawner"]):
    """Keeps max_workers workers alive.

    Args:
        dispatcher: Gets the workers.
        spawner: Starts them.
        max_workers: The number of workers.
        idle_timeout_s: Time without a call after which a worker ends until there are more calls; None: never.
        replaces_state: A worker that had state is replaced when it ends. Otherwise the pool is broken then.
        resources: What each of them needs.
        allocator: Allocates the resources.
        settings: What each rank is sent when it has connected (see docs/design.md).
    """

    keeps_functions = True

    def __init__(
        self,
        dispatcher: Dispatcher,
        spawner: Spawner,
        *,
        max_workers: int,
        idle_timeout_s: float | None,
        replaces_state: bool,
        resources: Resources,
        allocator: ResourceAllocator[Any],
        settings: dict[str, Any],
    ) -> None:
        super().__init__(dispatcher, spawner, settings)
        self.max_workers = max_workers
        self.wanted_workers = max_workers  # fewer after some have ended because they were idle
        self.replaces_state = replaces_state
        self.resources = resources
        self.restart_limit = resources.restart_limit
        self.allocator = allocator
        self.broken: Callable[[], BaseException] | None = None  # makes the error of each call
        self._ends_all = False  # there are no more calls: workers end, and none is started
        self._rounds = 0  # in which workers did not start, or died and have ended no call
        self._failed_rounds = 0  # since a worker was ready
        self._lost_rounds = 0  # since a worker has begun a call: of those that were ready, and died before
        self._shortage = Shortage()
        self._restart: Timer | None = None
        self._idle = None if idle_timeout_s is None else IdleWorkers(idle_timeout_s)
        self._idle_check: Timer | None = None

    # ---- for any thread ----

    def start_workers(self) -> None:
        """Start all workers."""
        self.loop.call(self._start_missing)

    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None:
        """Pass a call to the dispatcher: any worker may run it."""
        self.dispatcher.submit(future, function, parts, attempts=self.restart_limit, admitted=admitted)

    def waiting_count(self) -> int:
        """Return 0: calls wait in the dispatcher."""
        return 0

    def waiting_futures(self) -> list[Future[Any]]:
        """Return nothing: calls wait in the dispatcher."""
        return []

    def unfinished_count(self) -> int:
        """Return 0: the dispatcher knows all calls."""
        return 0

    def cancel_waiting(self) -> None:
        """Do nothing: calls wait in the dispatcher."""

    def resize(self, workers: int, cores: int) -> None:
        """Change the number of workers; return at once.

        If there are too many workers, idle ones exit first. A busy worker finishes its call before it exits.

        Args:
            workers: The number of workers.
            cores: The cores of all workers together.
        """
        self.allocator.resize(cores)
        self.max_workers = self.wanted_workers = workers
        self.loop.call(self._rescale)

    # ---- starting ----

    def _start_missing(self) -> None:
        missing = -self._surplus()
        for _ in range(min(missing, START_MAX)):
            if self._ends_all or self.broken is not None:
                return
            if not self.supervisor.is_prepared(self.spawner, self._start_missing):
                return
            start_round = self._rounds
            allocation = self.allocator.allocate(self.resources)
            if allocation is None:
                return  # a worker that is about to be gone still has the cores
            try:
                worker = self.supervisor.start_worker(
                    self.spawner,
                    self.resources,
                    {**self.resources.threads_environment(), **allocation.environment()},
                )
            except BaseException as error:  # OSError, WorkerStartError; RuntimeError while the interpreter shuts down
                self.allocator.release(allocation)
                self._start_failed(without_frames(error), None)  # its frames refer to a link
                return
            worker.assignment = allocation
            worker.start_round = start_round
        if missing > START_MAX:
            self.loop.call(self._start_missing)

    def on_ready(self, worker: WorkerHandle) -> None:
        """Let the worker serve."""
        self.dispatcher.add_worker(worker.number, worker.segment, about=worker.trace_metadata())
        self._failed_rounds = 0
        self._shortage.passed()
        watch_run_time(self.supervisor, self.dispatcher, worker, self.resources.run_time_max)
        if self._idle is not None and (self._idle_check is None or self._idle_check.function is None):
            self._end_idle()

    def _start_failed(self, error: Failure, worker: WorkerHandle | None) -> None:
        serving = any(other.state is State.SERVING for other in self.supervisor.workers.values())
        shortage = shortage_of(error)
        if shortage is not None:
            self._wait_out(shortage, error, others_run=serving)
            return
        if worker is None or self._is_first_of_round(worker):
            self._rounds += 1
            self._failed_rounds += 1
        has_reported_why = worker is not None and worker.start_error is not None
        is_final = self._failed_rounds >= START_ATTEMPTS or has_reported_why
        if is_final and not serving:
            self._mark_broken(error)
            return
        LOGGER.warning("a worker did not start, and is started again: %s", redacted_summary(error))
        self._restart_after(restart_delay_s(self._failed_rounds))

    def _wait_out(self, shortage: str, error: Failure, *, others_run: bool) -> None:
        """Try again after a pause. Fail the calls that wait if the shortage lasts too long."""
        LOGGER.warning("a worker did not start, because %s, and is started again", shortage)
        pause_s = self._shortage.attempt_failed(others_run=others_run, is_outage=isinstance(error, OutageError))
        if self._shortage.lasts_too_long:
            self.dispatcher.fail_waiting(partial(shortage_error, shortage, error))
        self._restart_after(pause_s)

    def _is_first_of_round(self, worker: WorkerHandle) -> bool:
        """Return False if the failure of the round in which a worker was started is counted already."""
        return worker.start_round >= self._rounds

    def _replace(self, worker: WorkerHandle) -> None:
        """Start a worker in the place of one that has served: after a pause if the last ones died and have ended no call."""
        lived_s = monotonic() - worker.started_s
        if worker.ended_calls or worker.interrupted or lived_s > RESTART_DELAY_MAX_S:
            self._lost_rounds = 0
        elif not worker.is_retiring and worker.kill_reason is None and self._is_first_of_round(worker):
            self._rounds += 1
            self._lost_rounds += 1
        if self._lost_rounds > 1:
            self._restart_after(restart_delay_s(self._lost_rounds))
        else:
            self._start_missing()

    def _restart_after(self, delay_s: float) -> None:
        """Start the missing workers after a delay, unless that is going to happen anyway."""
        if self._restart is None or self._restart.function is None:
            self._restart = self.loop.call_later(delay_s, self._start_missing)

    def _mark_broken(self, error: Failure) -> None:
        LOGGER.error("no worker can be started: %s", redacted_summary(error))
        self.broken = one_for_each_call(error)
        self._end_broken()

    def _end_broken(self) -> None:
        assert self.broken is not None
        self.dispatcher.fail_all(self.broken)
        for worker in list(self.supervisor.workers.values()):
            self.supervisor.end_worker(worker)

    def _resume(self) -> None:
        if self.broken is not None and not any(
            worker.state is State.SERVING for worker in self.supervisor.workers.values()
        ):  # calls that run on other workers go on
            self._end_broken()
        self._rescale()
        self._await_calls()

    # ---- idle workers ----

    def _end_idle(self) -> None:
        """Have the workers end that have been idle for too long. Repeated as long as workers run."""
        assert self._idle is not None
        if self._ends_all:
            return
        if self.supervisor.workers:
            self._idle_check = self.loop.call_later(self._idle.interval_s, self._end_idle)
        for number in self._idle.expired(self.dispatcher.load_of_workers()):
            worker = self.supervisor.workers.get(number)
            if worker is not None and worker.state is State.SERVING and not worker.is_retiring:
                LOGGER.info("worker %d was idle, and ends", number)
                worker.is_retiring = True
                self.wanted_workers -= 1
                self.loop.run(partial(self._retire, worker), worker.handlers)
        self._await_calls()

    def _await_calls(self) -> None:
        """Start workers that have ended as soon as there are more calls than workers."""
        if self.wanted_workers < self.max_workers:
            self.dispatcher.call_when_crowded(self.mailbox, self._start_for_calls, self.wanted_workers)

    def _start_for_calls(self) -> None:
        self.wanted_workers = min(max(self.dispatcher.call_count, self.wanted_workers), self.max_workers)
        self._start_missing()
        self._await_calls()

    # ---- resizing ----

    def _surplus(self) -> int:
        # The smaller one, because `resize` may have run while this thread changed the other.
        wanted = 0 if self._drain.has_begun else min(self.wanted_workers, self.max_workers)
        return sum(not worker.is_retiring for worker in self.supervisor.workers.values()) - wanted

    def _rescale(self) -> None:
        self._start_missing()
        if self._ends_all or self._surplus() <= 0:
            return
        load = self.dispatcher.load_of_workers()
        workers = [worker for worker in self.supervisor.workers.values() if not worker.is_retiring]
        workers.sort(key=lambda worker: load[worker.number][0] if worker.number in load else -1)  # -1: not ready yet
        for worker in workers[: self._surplus()]:
            LOGGER.info("worker %d is one too many now, and ends", worker.number)
            worker.is_retiring = True
            end = self._retire if worker.state is State.SERVING else self.supervisor.end_worker
            self.loop.run(partial(end, worker), worker.handlers)

    def on_last_call(self, worker: WorkerHandle) -> None:
        """Send the worker no more calls. Another one takes its place when it is gone."""
        worker.is_retiring = True
        self._retire(worker)

    def _retire(self, worker: WorkerHandle) -> None:
        """Tell a worker to exit after its running call, as soon as its ring has room for the message."""
        if self.dispatcher.retire_worker(worker.number):
            self._kill_when_idle(worker)
        else:
            self.loop.call_later(IDLE_CHECK_S, lambda: self._retire(worker), worker.handlers)

    def _kill_when_idle(self, worker: WorkerHandle) -> None:
        """Kill a worker that has finished its last call and does not exit."""
        if self.dispatcher.current_call(worker.number) == 0:
            self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S)
        else:
            self.loop.call_later(RETIRED_CHECK_S, lambda: self._kill_when_idle(worker), worker.handlers)

    # ---- the end of one worker ----

    def on_gone(self, worker: WorkerHandle) -> None:
        """Fail the worker's running call, put its other calls back in the queue, and start a new worker."""
        self.allocator.release(worker.assignment)
        worker.ended_calls = self.dispatcher.ended_calls(worker.number) or worker.ended_calls
        self._take_interrupted(worker)
        has_served = worker.state_before_end is not State.STARTING
        was_told = self._ends_all or worker.is_retiring
        is_expected = (
            was_told or worker.runs_cancelled or not has_served
        )  # `_start_failed` logs those that did not start
        log_exit(LOGGER, worker, expected=is_expected)
        has_state = worker.ended_calls > 0 or has_start_functions(self.supervisor.settings)
        loses_state = has_served and has_state and not was_told and self.broken is None
        self._fail_interrupted(worker, STATE_LOST_NOTE if loses_state else None)
        if loses_state and not self.replaces_state:
            LOGGER.error("worker %d ended with its state, and on_worker_replaced is 'fail'", worker.number)
            self.broken = partial(state_lost_error, worker.number)  # calls that run on other workers go on
        if self.broken is not None:
            self.dispatcher.fail_all(self.broken)  # calls that were put back in the queue
        if self._ends_all:
            if self.dispatcher.call_count:  # only after `kill`; not for each of many workers
                self.dispatcher.call_soon(self.dispatcher.cancel_waiting)
            self._close_if_empty()
        elif has_served or worker.is_retiring:  # the pool may have been enlarged again
            self._replace(worker)
        elif self.broken is None:
            self._start_failed(start_error(worker), worker)

    # ---- the end of all ----

    def _take_unbegun(self) -> list[Future[Any]]:
        self._rescale()
        return []

    def _close_when_idle(self) -> None:
        if not self._ends_all and not self._is_idle():
            self._close_later()
            return
        self._ends_all = True
        for worker in list(self.supervisor.workers.values()):
            if worker.state is not State.ENDING:
                told = worker.state is State.SERVING and self.dispatcher.retire_worker(worker.number)
                self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S if told else 0.0)
        self._close_if_empty()

    def _kill_all(self) -> None:
        self._ends_all = True
        self.dispatcher.call_soon(self.dispatcher.cancel_waiting)
        for worker in list(self.supervisor.workers.values()):
            self._end_killed(worker)
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if not self.supervisor.workers:
            self._finish_closing()
