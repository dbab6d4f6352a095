"""The pool of block allocation: a fixed number of workers that serve many calls.

    open ── workers are started ──> on_ready: the dispatcher gets another worker
                                    on_gone:  its begun call fails, a new worker takes its place
    close ── no more calls: when the last has ended, workers are told to end ──> closed

A worker that dies is replaced at once, one that dies without having done anything after a pause that doubles. When
`START_ATTEMPTS` in a row do not even get ready, the pool is broken: what waits and what is submitted fails
with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pympipool.pool.failures import log_exit, redacted_summary, start_error, worker_died_error
from pympipool.pool.supervisor import Supervisor
from pympipool.pool.timeouts import IDLE_CHECK_S, watch_for_stuck_ranks, watch_run_time
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.serialization.exceptions import without_frames

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import ResourceAllocator, Resources

LOGGER = logging.getLogger("pympipool.pool")

START_ATTEMPTS = 5
"""Workers in a row that may fail to start before the pool gives up."""

RESTART_PAUSE_S = 0.1
"""Pause before a worker is started again that has done nothing; doubles each time."""

LONGEST_PAUSE_S = 10.0

DISMISSED_CHECK_S = 0.5
"""How often it is looked at whether a worker that is to end after its call has ended that."""


class BlockPool:
    """Keeps max_workers workers alive.

    Args:
        dispatcher: gets the workers.
        spawner: starts them.
        max_workers: how many.
        resources: what each of them needs.
        ledger: where that comes from.
        settings: what each is told (see docs/design.md).
    """

    keeps_functions = True

    def __init__(
        self,
        dispatcher: Dispatcher,
        spawner: Spawner,
        *,
        max_workers: int,
        resources: Resources,
        ledger: ResourceAllocator[Any],
        settings: dict[str, Any],
    ) -> None:
        self.dispatcher = dispatcher
        self.spawner = spawner
        self.max_workers = max_workers
        self.resources = resources
        self.ledger = ledger
        self.broken: BaseException | None = None
        self._closed = threading.Event()
        self._closing = False
        self._failed_starts = 0
        self._retiring: set[int] = set()  # numbers of the workers that are too many since `resize`
        self._pending: Callable[[], int] = lambda: 0
        self.supervisor = Supervisor(self, settings, dispatcher.doorbells)

    # ---- for any thread ----

    def open(self) -> None:
        """Starts the supervisor and the workers."""
        self.supervisor.start()
        self.supervisor.call(self._start_missing)

    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None:
        """Gives a call to the dispatcher: any worker may run it."""
        self.dispatcher.submit(future, function, parts, attempts=self.resources.restart_limit, admitted=admitted)

    def waiting_count(self) -> int:
        """None: the calls wait in the dispatcher."""
        return 0

    def waiting_futures(self) -> list[Future[Any]]:
        """None: the calls wait in the dispatcher."""
        return []

    def unfinished_count(self) -> int:
        """None: the dispatcher knows all calls."""
        return 0

    def cancel_waiting(self) -> None:
        """Nothing to do: the calls wait in the dispatcher."""

    def close(self, pending: Callable[[], int] = lambda: 0) -> None:
        """Ends the workers once no call is left; returns at once (see `wait_closed`).

        Args:
            pending: counts the calls that the dispatcher does not know yet.
        """
        self._pending = pending
        self.supervisor.call(self._close_when_idle)

    def kill(self) -> None:
        """Ends the workers now, whatever they do; returns at once."""
        self.supervisor.call(self._kill_all)

    def resize(self, workers: int, cores: int) -> None:
        """Changes the number of workers; returns at once. Of too many the idle ones end first, and calls run to their end.

        Args:
            workers: how many.
            cores: of all of them.
        """
        self.ledger.resize(cores)
        self.max_workers = workers
        self.supervisor.call(self._rescale)

    def check_damage(self) -> None:
        """Ends the workers whose rings hold nonsense."""
        self.supervisor.call(self._kill_damaged)

    def wait_closed(self) -> None:
        """Waits until all workers are gone, and the supervisor too."""
        self._closed.wait()
        if threading.current_thread() is not self.supervisor.thread:
            self.supervisor.thread.join()

    def after_fork_in_child(self) -> None:
        """In a forked child: closes what was inherited, so that workers still notice the master's end."""
        self.supervisor.close()
        self.spawner.after_fork_in_child()

    def hosts(self) -> list[dict[str, Any]]:
        """What each serving worker's rank 0 said of itself."""
        return self.supervisor.describe_workers()

    def states(self) -> list[dict[str, Any]]:
        """Each worker there is, and how far it has come."""
        return self.supervisor.worker_states()

    # ---- starting ----

    def _start_missing(self) -> None:
        while not self._closing and self.broken is None and self._surplus() < 0:
            grant = self.ledger.allocate(self.resources)
            if grant is None:
                return  # what a worker still has that is about to be gone
            try:
                worker = self.supervisor.start_worker(
                    self.spawner,
                    self.resources,
                    {**self.resources.threads_environment(), **grant.environment()},
                )
            except Exception as error:  # OSError, WorkerStartError; RuntimeError where the interpreter is about to end
                self.ledger.release(grant)
                self._start_failed(without_frames(error), None)  # they hold a link
                return
            worker.assignment = grant

    def on_ready(self, worker: WorkerHandle) -> None:
        """The worker serves from now on."""
        self._failed_starts = 0
        self.dispatcher.add_worker(worker.number, worker.link.segment, about=worker.trace_metadata())
        watch_run_time(self.supervisor, self.dispatcher, worker, self.resources.run_time_max)

    def _start_failed(self, error: BaseException, worker: WorkerHandle | None) -> None:
        self._failed_starts += 1
        has_said_why = worker is not None and worker.start_error is not None
        serving = any(other.state is State.SERVING for other in self.supervisor.workers.values())
        if (has_said_why or self._failed_starts >= START_ATTEMPTS) and not serving:
            self._mark_broken(error)
            return
        LOGGER.warning("a worker did not start, and is started again: %s", redacted_summary(error))
        pause_s = min(RESTART_PAUSE_S * 2**self._failed_starts, LONGEST_PAUSE_S)
        self.supervisor.after(pause_s, self._start_missing)

    def _mark_broken(self, error: BaseException) -> None:
        LOGGER.error("no worker can be started: %s", redacted_summary(error))
        self.broken = error
        for worker in list(self.supervisor.workers.values()):
            self.supervisor.end_worker(worker)
        self.dispatcher.fail_all(error)

    # ---- more workers, or less ----

    def _surplus(self) -> int:
        return len(self.supervisor.workers) - len(self._retiring) - self.max_workers

    def _rescale(self) -> None:
        self._start_missing()
        if self._closing or self._surplus() <= 0:
            return
        load = self.dispatcher.load_of_workers()
        staying = [worker for number, worker in self.supervisor.workers.items() if number not in self._retiring]
        staying.sort(key=lambda worker: load[worker.number][0] if worker.number in load else -1)  # -1: it still starts
        for worker in staying[: self._surplus()]:
            LOGGER.info("worker %d is one too many now, and ends", worker.number)
            self._retiring.add(worker.number)
            if worker.state is State.SERVING:
                self._retire(worker)
            else:
                self.supervisor.end_worker(worker)

    def _retire(self, worker: WorkerHandle) -> None:
        """Tells a worker to end after the call that it runs, as soon as its ring has room for that."""
        if self.dispatcher.retire_worker(worker.number):
            self._kill_when_idle(worker)
        else:
            self.supervisor.after(IDLE_CHECK_S, lambda: self._retire(worker), worker)

    def _kill_when_idle(self, worker: WorkerHandle) -> None:
        """Ends a worker that has ended its last call and does not end itself."""
        if self.dispatcher.current_call(worker.number) == 0:
            self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S)
        else:
            self.supervisor.after(DISMISSED_CHECK_S, lambda: self._kill_when_idle(worker), worker)

    # ---- ending of one worker ----

    def on_rank_error(self, worker: WorkerHandle, call: int) -> None:
        """Ranks that do not come back from a call that raised in one of them are ended with it."""
        watch_for_stuck_ranks(self.supervisor, self.dispatcher, worker, call)

    def on_gone(self, worker: WorkerHandle) -> None:
        """Its begun call fails, the others wait again, and a new worker is started."""
        self.ledger.release(worker.assignment)
        victims = self.dispatcher.remove_dead_worker(worker.number)
        served = worker.state_before_end is not State.STARTING
        was_told = self._closing or worker.number in self._retiring
        log_exit(LOGGER, worker, expected=was_told or not served)  # of one that did not start, `_start_failed` tells
        for future in victims:
            self.dispatcher.fail(future, worker.kill_reason or worker_died_error(worker, future))
        if self.broken is not None:
            self.dispatcher.fail_all(self.broken)  # what this worker had not begun, or may begin anew, waits again
        if self._closing:
            self.dispatcher.cancel_waiting()  # only after `kill` is there anything: what the worker had not begun
            self._finish_closing()
            return
        if worker.number in self._retiring:
            self._retiring.remove(worker.number)
            self._start_missing()  # there may be too few again
        elif served:
            self._start_missing()
        elif self.broken is None:
            self._start_failed(start_error(worker), worker)

    def _kill_damaged(self) -> None:
        for number in self.dispatcher.corrupt_workers():
            worker = self.supervisor.workers.get(number)
            if worker is not None:
                self.supervisor.end_worker(worker)

    # ---- ending of all ----

    def _close_when_idle(self) -> None:
        if self._closing:
            return
        if self.dispatcher.unfinished_count > 0 or self._pending() > 0:
            self.supervisor.after(IDLE_CHECK_S, self._close_when_idle)
            return
        self._closing = True
        for worker in list(self.supervisor.workers.values()):
            told = worker.state is State.SERVING and self.dispatcher.retire_worker(worker.number)
            self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S if told else 0.0)
        self._finish_closing()

    def _kill_all(self) -> None:
        self._closing = True
        for worker in list(self.supervisor.workers.values()):
            self.supervisor.end_worker(worker)
        self._finish_closing()

    def _finish_closing(self) -> None:
        if not self.supervisor.workers:
            self.supervisor.stop()
            self.spawner.close()
            self.dispatcher.stop()
            self._closed.set()
