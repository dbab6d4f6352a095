"""The pool without block allocation: each call gets a worker of its own.

    place ─► waiting ── cores and GPUs are free ─► worker is started ── ready ─► it gets its call
                                   ▲                                                  │
                                   └──────── given back when the worker is gone ◄─────┘

Same workers, same links, same failures as with block allocation; only that a worker's life is one call. Which call
may start when is the ledger's to say (`pympipool.resources`).
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pympipool.pool.failures import log_exit, redacted_summary, start_error, worker_died_error
from pympipool.pool.supervisor import Supervisor
from pympipool.pool.timeouts import IDLE_CHECK_S, watch_for_stuck_ranks, watch_run_time
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.serialization.exceptions import without_frames

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Allocation, ResourceAllocator, Resources

LOGGER = logging.getLogger("pympipool.pool")

START_ATTEMPTS = 3
"""Workers that may end before they have got their call; if they say why, the first is the last."""


class CallSpawners(Protocol):
    """The spawners of a backend that starts a worker for each call."""

    def for_call(self, resources: Resources) -> Spawner:
        """The spawner for a call that needs this."""

    def close(self) -> None:
        """Ends what they keep running."""

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of it."""


class QueuedCall:
    """A call that waits for its worker, or has one."""

    __slots__ = ("attempts_left", "future", "grant", "parts", "resources", "starts_left", "worker_number")

    def __init__(self, future: Future[Any], parts: list[Any], resources: Resources) -> None:
        self.future = future
        self.parts = parts
        self.resources = resources
        self.attempts_left = resources.restart_limit
        self.starts_left = START_ATTEMPTS - 1
        self.grant: Allocation | None = None
        self.worker_number = 0  # the number of the last one that was started for it


class PerCallPool:
    """Starts a worker for each call, as many at a time as the ledger has cores and GPUs for.

    Args:
        dispatcher: carries the calls.
        spawners: the spawner for a call's resources.
        ledger: says what is free.
        settings: what each worker is told (see docs/design.md).
    """

    keeps_functions = False

    def __init__(
        self,
        dispatcher: Dispatcher,
        spawners: CallSpawners,
        ledger: ResourceAllocator[QueuedCall],
        settings: dict[str, Any],
    ) -> None:
        self.dispatcher = dispatcher
        self.spawners = spawners
        self.ledger = ledger
        self._closed = threading.Event()
        self._pending: Callable[[], int] = lambda: self._unfinished
        self._killed = False
        self._unfinished = 0
        self._lock = threading.Lock()
        self.supervisor = Supervisor(self, {**settings, "one_call": True}, dispatcher.doorbells)

    # ---- for any thread ----

    def open(self) -> None:
        """Starts the supervisor."""
        self.supervisor.start()

    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None:
        """Queues a call.

        Raises:
            RuntimeError: no call is taken any more.
        """
        assert resources is not None
        with self._lock:
            if not admitted:
                self.dispatcher.check_open()
            self._unfinished += 1
        self.dispatcher.mark_ready(future)
        request = QueuedCall(future, parts, resources)
        self.ledger.enqueue(request, resources)
        future._add_internal_callback(functools.partial(self._call_ended, request))
        self.supervisor.call(self._start_next)

    def _call_ended(self, request: QueuedCall, future: StandardFuture[Any]) -> None:
        """Takes a call that was cancelled out of the line, with its arguments; of any other sees the worker off."""
        if not future.cancelled():
            self.supervisor.call(functools.partial(self._kill_when_idle, request.worker_number))
        elif self.ledger.withdraw(request):
            with self._lock:
                self._unfinished -= 1
            self.dispatcher.kick()

    def waiting_count(self) -> int:
        """Calls that have no worker yet."""
        return sum(not request.future.done() for request in self.ledger.waiting())

    def waiting_futures(self) -> list[Future[Any]]:
        """Of the calls that have no worker yet, or one that is not ready."""
        workers = list(self.supervisor.workers.values())
        requests = [*self.ledger.waiting(), *(worker.assignment for worker in workers if worker.assignment is not None)]
        return [request.future for request in requests]

    def unfinished_count(self) -> int:
        """Calls that wait, or whose worker is not gone yet."""
        return self._unfinished

    def cancel_waiting(self) -> None:
        """Cancels the calls that wait for their worker to be started."""
        for request in self.ledger.waiting():
            request.future.cancel()
        self.supervisor.call(self._start_next)

    def close(self, pending: Callable[[], int]) -> None:
        """Ends the supervisor once pending() is 0; returns at once (see `wait_closed`)."""
        self._pending = pending
        self.supervisor.call(self._close_when_idle)

    def kill(self) -> None:
        """Ends the workers now, whatever they do; returns at once."""
        self.supervisor.call(self._kill_all)

    def resize(self, workers: int, cores: int) -> None:
        """Changes how many cores calls may have together; those that have them keep them until they end.

        Raises:
            ValueError: A call that waits asks for more.
        """
        self.ledger.resize(cores)
        self.supervisor.call(self._start_next)

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
        self.spawners.after_fork_in_child()

    def hosts(self) -> list[dict[str, Any]]:
        """What each serving worker's rank 0 said of itself."""
        return self.supervisor.describe_workers()

    def states(self) -> list[dict[str, Any]]:
        """Each worker there is, and how far it has come."""
        return self.supervisor.worker_states()

    # ---- one call after the other, in the supervisor's thread ----

    def _start_next(self) -> None:
        """Starts workers for as many waiting calls as there is room for."""
        while (granted := self.ledger.next()) is not None:
            request, grant = granted
            if request.future.done():  # cancelled while it waited
                self._finish(grant)
                continue
            try:
                self._start(request, grant)
            except Exception as error:  # OSError, WorkerStartError; RuntimeError where the interpreter is about to end
                self.dispatcher.fail(request.future, without_frames(error))  # they hold a link, and the call
                self._finish(grant)

    def _start(self, request: QueuedCall, grant: Allocation) -> None:
        needed = request.resources
        worker = self.supervisor.start_worker(
            self.spawners.for_call(needed),
            needed,
            {**needed.threads_environment(), **grant.environment()},
        )
        request.grant = grant
        request.worker_number = worker.number
        worker.assignment = request

    def on_ready(self, worker: WorkerHandle) -> None:
        """The worker gets its call, unless that was cancelled."""
        request = worker.assignment
        if request.future.done():
            self.supervisor.end_worker(worker)
            return
        self.dispatcher.add_worker(worker.number, worker.link.segment, reserved=True, about=worker.trace_metadata())
        self.dispatcher.submit(request.future, None, request.parts, worker=worker.number, admitted=True)
        if request.attempts_left == 0:
            request.parts = []  # the call's future has them as long as they are needed
        if request.future.cancelled():  # since we looked: nothing was sent, and the worker would wait for ever
            self.supervisor.end_worker(worker)
            return
        watch_run_time(self.supervisor, self.dispatcher, worker, request.resources.run_time_max)

    def on_rank_error(self, worker: WorkerHandle, call: int) -> None:
        """Ranks that do not come back from a call that raised in one of them are ended with it."""
        watch_for_stuck_ranks(self.supervisor, self.dispatcher, worker, call)

    def _kill_when_idle(self, number: int) -> None:
        """Ends a worker whose call has ended and that does not end itself: what it has would never be free again."""
        worker = self.supervisor.workers.get(number)
        if worker is not None and worker.state is State.SERVING:
            self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S)

    def on_gone(self, worker: WorkerHandle) -> None:
        """What the worker had is free; a call that it did not end fails, or is tried again."""
        request: QueuedCall = worker.assignment
        victims = self.dispatcher.remove_dead_worker(worker.number)
        assert request.grant is not None
        log_exit(LOGGER, worker, expected=self._killed or not victims)
        if self._may_try_again(request, worker, bool(victims)):
            self._try_again(request, request.grant)
        else:
            for future in victims:
                self.dispatcher.fail(future, worker.kill_reason or worker_died_error(worker, future))
            if worker.state_before_end is State.STARTING:
                error = start_error(worker)
                if not request.future.done():
                    LOGGER.warning("worker %d did not start: %s", worker.number, redacted_summary(error))
                self.dispatcher.fail(request.future, error)  # unless it was cancelled
            self._finish(request.grant)
        self._start_next()

    def _try_again(self, request: QueuedCall, grant: Allocation) -> None:
        LOGGER.info("a call is tried again whose worker is gone")
        try:
            self.ledger.enqueue(request, request.resources)
        except ValueError as error:  # there are less cores than when it was submitted
            self.dispatcher.fail(request.future, error)
            self._finish(grant)
        else:
            self.ledger.release(grant)

    def _may_try_again(self, request: QueuedCall, worker: WorkerHandle, began: bool) -> bool:
        """Whether a call whose worker is gone gets another one; counts."""
        if self._killed or request.future.done() or worker.kill_reason is not None:
            return False
        if began:
            request.attempts_left -= 1
            return request.attempts_left >= 0
        if worker.state_before_end is not State.STARTING or worker.start_error is not None:
            return False
        request.starts_left -= 1
        return request.starts_left >= 0

    def _finish(self, grant: Allocation) -> None:
        self.ledger.release(grant)
        with self._lock:
            self._unfinished -= 1
        self.dispatcher.kick()

    def _kill_damaged(self) -> None:
        for number in self.dispatcher.corrupt_workers():
            worker = self.supervisor.workers.get(number)
            if worker is not None:
                self.supervisor.end_worker(worker)

    # ---- the end ----

    def _close_when_idle(self) -> None:
        if self.dispatcher.unfinished_count > 0 or self._pending() > 0:
            self.supervisor.after(IDLE_CHECK_S, self._close_when_idle)
            return
        self.supervisor.stop()
        self.spawners.close()
        self.dispatcher.stop()
        self._closed.set()

    def _kill_all(self) -> None:
        self._killed = True
        self.supervisor.call(self._close_when_idle)
        for worker in list(self.supervisor.workers.values()):
            self.supervisor.end_worker(worker)
