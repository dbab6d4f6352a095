"""The pool without block allocation: each call gets a worker of its own.

    submit ─► mailbox ─► queue ── cores and GPUs are free ─► worker is started ── ready ─► it gets its call
                                             ▲                                                  │
                                             └───────── released when the worker is gone ◄──────┘

The queue belongs to the supervisor's thread. A thread that submits or cancels a call only posts that to the supervisor's
mailbox, in one step that no signal handler can interrupt.

Workers, links and failures are the same as with block allocation, but a worker serves one call only. The resource
allocator (`pympipool.resources`) decides which call may start when.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

from pympipool._util.service_threads import ServiceLogger
from pympipool.pool.base import BasePool
from pympipool.pool.failures import log_exit, redacted_summary, start_error
from pympipool.pool.queued_call import QueuedCall
from pympipool.pool.shortages import OutageError, Shortage, shortage_error, shortage_of
from pympipool.pool.timeouts import watch_run_time
from pympipool.pool.worker_handle import WORKER_EXIT_GRACE_S, State, WorkerHandle
from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.backends.spawner import LaunchRequest, Spawner
    from pympipool.pool.reported_error import Failure
    from pympipool.resources import Allocation, ResourceAllocator, Resources

LOGGER = ServiceLogger("pympipool.pool")


class CallSpawners(Protocol):
    """The spawners of a backend that starts a worker for each call."""

    def for_call(self, resources: Resources) -> Spawner:
        """Return the spawner for a call with these resources."""

    def prepare(self, request: LaunchRequest) -> bool:
        """Start what workers need besides their own processes; return False while it starts."""

    def close(self) -> None:
        """End the processes that the spawners keep running besides workers."""

    def after_fork_in_child(self) -> None:
        """Release in a forked child what belongs to the parent."""


class PerCallPool(BasePool[CallSpawners]):
    """Starts a worker for each call, as many at a time as there are cores and GPUs for.

    Args:
        dispatcher: Carries the calls.
        spawner: Selects the spawner that starts the worker of a call.
        allocator: Queues the calls, and allocates their resources.
        settings: What each rank is sent when it has connected (see docs/design.md).
    """

    keeps_functions = False

    def __init__(
        self,
        dispatcher: Dispatcher,
        spawner: CallSpawners,
        allocator: ResourceAllocator[QueuedCall],
        settings: dict[str, Any],
    ) -> None:
        super().__init__(dispatcher, spawner, {**settings, "max_calls": 1, "announces_last": False})
        self.allocator = allocator
        self._shortage = Shortage()
        self._is_pausing = False  # no worker is started for a moment, because the system has no room for one
        self._unfinished: dict[QueuedCall, None] = {}

    # ---- for any thread ----

    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None:
        """Queue a call.

        Raises:
            RuntimeError: The executor takes no more calls.
        """
        assert resources is not None
        if self.dispatcher.fail_if_broken(future):
            return
        self.allocator.check(resources)
        self.dispatcher.mark_ready(future)
        call = QueuedCall(future, parts, resources)
        mailbox = self.loop.mailbox
        end_attempt = functools.partial(self._call_ended, call)
        future._post_when_done(mailbox, end_attempt)
        if future.retry is not None:
            future.retry.end_attempt = functools.partial(mailbox.post, end_attempt)
        if not self.dispatcher.admit(self._unfinished, call, mailbox, functools.partial(self._accept, call), admitted):
            self.dispatcher.cancel(future)

    def waiting_count(self) -> int:
        """Count the calls that have no worker yet."""
        return sum(call.allocation is None and not call.is_done for call in list(self._unfinished))

    def waiting_futures(self) -> list[Future[Any]]:
        """Return the futures of the calls that have not ended; a trace records those that the dispatcher does not have."""
        futures = [call.future for call in list(self._unfinished)]
        return [future for future in futures if future is not None and not future.done()]

    def unfinished_count(self) -> int:
        """Count the calls that have not ended, and those of which the pool has not noticed the end.

        A closed pool has ended all calls. It notices no more ends, since its loop has stopped.
        """
        return 0 if self._closed.done() else len(self._unfinished)

    def cancel_waiting(self) -> None:
        """Cancel the calls that no worker has begun, also those whose worker is starting or waits in a queue."""
        for future in self.waiting_futures():
            self.dispatcher.cancel(future)

    def resize(self, workers: int, cores: int) -> None:
        """Change how many cores all calls may have together; running calls keep theirs until they end.

        Raises:
            ValueError: A call that waits asks for more.
        """
        waiting = (call for call in list(self._unfinished) if call.allocation is None and not call.is_done)
        most = max((call.resources.total_cores for call in waiting), default=0)
        if most > cores:
            raise ValueError(f"{cores} cores are too few: a call that waits asks for {most}")
        self.allocator.resize(cores)
        self.loop.call(self._start_next)

    # ---- one call after the other, in the supervisor's thread ----

    def _accept(self, call: QueuedCall) -> None:
        """Queue a call that was submitted, and start it if there is room."""
        if call.is_accepted:
            return
        call.is_accepted = True
        self._enqueue(call)
        self._start_next()

    def _enqueue(self, call: QueuedCall) -> None:
        if call.is_done:  # cancelled meanwhile
            self._forget(call)
            return
        try:
            self.allocator.enqueue(call, call.resources)
        except ValueError as error:  # the pool has fewer cores than when the call was submitted
            self._fail(call, error)

    def _call_ended(self, call: QueuedCall) -> None:
        """Remove a cancelled call, with its arguments, from the queue. If it has a worker, have that end."""
        call.future = None
        call.parts = []
        if not self.allocator.withdraw(call):
            self._end_worker_of_call(call)
        self._forget(call)

    def _forget(self, call: QueuedCall) -> None:
        """Note that a call has ended."""
        self._unfinished.pop(call, None)
        self.dispatcher.wake_waiting_thread()

    def _fail(self, call: QueuedCall, error: Failure | Callable[[], BaseException]) -> None:
        """Fail a call unless it has ended; that posts `_call_ended`."""
        if (future := call.future) is not None:
            self.dispatcher.fail_soon(future, error)
            call.is_settled = True

    def _start_next(self) -> None:
        """Start workers for as many waiting calls as there are free resources."""
        for call in self.allocator.withdraw_too_large():  # the pool has become smaller
            self._fail(
                call,
                ValueError(f"the call asks for {call.resources.total_cores} cores; there are {self.allocator.cores}"),
            )
        while self._may_start and len(self.allocator) > 0 and self._is_prepared():
            started = self.allocator.next()
            if started is None:
                return
            call, call.allocation = started
            if call.is_done:  # cancelled while it waited
                self.allocator.release(call.allocation)
                continue
            try:
                self._start(call, call.allocation)
            except BaseException as error:  # OSError, WorkerStartError; RuntimeError while the interpreter shuts down
                self._start_failed(call, without_frames(error))  # its frames refer to the link and the call

    @property
    def _may_start(self) -> bool:
        return not self._is_pausing and not self._drain.has_begun

    def _is_prepared(self) -> bool:
        return self.supervisor.is_prepared(self.spawner, self._start_next)

    def _start_failed(self, call: QueuedCall, error: Failure) -> None:
        shortage = shortage_of(error)
        if shortage is not None and self._wait_out(shortage, error):
            self._retry(call)
            return
        self._fail(call, error if shortage is None else shortage_error(shortage, error))
        self._release(call)

    def _release(self, call: QueuedCall) -> None:
        if call.allocation is not None:
            self.allocator.release(call.allocation)

    def _resume(self) -> None:
        for call in list(self._unfinished):
            if not call.is_accepted:
                self.loop.call(functools.partial(self._accept, call))
            elif call.is_done:
                self._call_ended(call)
            elif self._is_lost(call):
                LOGGER.warning("a call is started again that a failure has left without a worker")
                self._retry(call)
        self._end_pause()

    def _is_lost(self, call: QueuedCall) -> bool:
        """Return True if nothing would look at the call again: a handler that has raised had taken it out of the queue."""
        if call.is_settled or self.allocator.is_queued(call):
            return False
        worker = self.supervisor.workers.get(call.worker_number)
        return worker is None or worker.assignment is not call

    def _wait_out(self, shortage: str, error: Failure) -> bool:
        """Start no worker for a while; return False if the shortage lasts too long for calls to wait."""
        if self._is_killed:
            return False
        others_run = any(worker.state is not State.STARTING for worker in self.supervisor.workers.values())
        pause_s = self._shortage.attempt_failed(others_run=others_run, is_outage=isinstance(error, OutageError))
        if self._shortage.lasts_too_long:
            return False
        LOGGER.warning("a worker did not start, because %s, and is started again", shortage)
        if not self._is_pausing:
            self.loop.call_later(pause_s, self._end_pause)
            self._is_pausing = True
        return True

    def _end_pause(self) -> None:
        self._is_pausing = False
        self._start_next()

    def _start(self, call: QueuedCall, allocation: Allocation) -> None:
        resources = call.resources
        worker = self.supervisor.start_worker(
            self.spawner.for_call(resources),
            resources,
            {**resources.threads_environment(), **allocation.environment()},
        )
        call.worker_number = worker.number
        worker.assignment = call

    def on_ready(self, worker: WorkerHandle) -> None:
        """Send the worker its call, unless that was cancelled."""
        call: QueuedCall = worker.assignment
        future = call.future
        if future is None or future.done() or self._drain.has_begun:
            self.supervisor.end_worker(worker)
            return
        self.dispatcher.add_worker(worker.number, worker.segment, reserved=True, about=worker.trace_metadata())
        self.dispatcher.submit(future, None, call.parts, worker=worker.number, admitted=True)
        call.is_settled = True
        self._shortage.passed()
        if call.attempts_left == 0:
            call.parts = []  # the future keeps them as long as they are needed
        if future.cancelled():  # since the check above: nothing was sent, so the worker would wait forever
            self.supervisor.end_worker(worker)
            return
        watch_run_time(self.supervisor, self.dispatcher, worker, call.resources.run_time_max)

    def _end_worker_of_call(self, call: QueuedCall) -> None:
        """Kill a worker whose call has ended if it does not exit by itself: else its resources would never be free again."""
        worker = self.supervisor.workers.get(call.worker_number)
        if worker is None or worker.assignment is not call:
            return
        if worker.state is State.STARTING:  # its call was cancelled
            self.supervisor.end_worker(worker)
        elif worker.state is State.SERVING:
            self.supervisor.end_worker(worker, grace_s=WORKER_EXIT_GRACE_S)

    def on_gone(self, worker: WorkerHandle) -> None:
        """Release the worker's resources. A call that it did not finish fails or is retried."""
        call: QueuedCall = worker.assignment
        self._take_interrupted(worker)
        log_exit(LOGGER, worker, expected=self._is_killed or worker.runs_cancelled or not worker.interrupted)
        if call.worker_number == worker.number:  # else it is queued again already
            self._retry_or_end(call, worker)
        if worker.state_before_end is State.STARTING:
            self._start_next()
        else:
            self._end_pause()  # what the worker had may be what the next one needs
        if (self._is_closing or self._is_killed) and not self.supervisor.workers:
            self._close_when_idle()

    def _retry_or_end(self, call: QueuedCall, worker: WorkerHandle) -> None:
        """Queue a call again whose worker is gone, or have it end."""
        if self._count_retry(call, worker, began=bool(worker.interrupted)):
            LOGGER.info("a call is tried again whose worker is gone")
            self._retry(call)
            return
        self._fail_interrupted(worker)
        if not call.is_settled and not call.is_done:  # it was not sent
            error = worker.kill_reason or start_error(worker)
            shortage = shortage_of(error)
            if self._is_killed and call.future is not None:
                self.dispatcher.cancel(call.future)
            else:
                LOGGER.warning("worker %d did not start: %s", worker.number, redacted_summary(error))
                reason = error if shortage is None else functools.partial(shortage_error, shortage, error)
                self._fail(call, reason)  # without effect if it is cancelled meanwhile
        self._release(call)

    def _retry(self, call: QueuedCall) -> None:
        """Queue a call again that has lost its worker."""
        self._release(call)
        call.allocation = None
        call.worker_number = 0
        call.is_settled = False
        self._enqueue(call)

    def _count_retry(self, call: QueuedCall, worker: WorkerHandle, *, began: bool) -> bool:
        """Return True if a call whose worker is gone may get another worker, and count this attempt.

        Args:
            began: The call had begun on the worker.
        """
        if self._is_killed or call.is_done or worker.kill_reason is not None:
            return False
        if began:
            call.attempts_left -= 1
            return call.attempts_left >= 0
        if call.is_settled:
            return False
        error = start_error(worker)
        shortage = shortage_of(error)
        if shortage is not None:
            return self._wait_out(shortage, error)
        if worker.start_error is not None:
            return False
        call.starts_left -= 1
        return call.starts_left >= 0

    # ---- the end ----

    def _take_unbegun(self) -> list[Future[Any]]:
        futures = []
        for call in list(self._unfinished):
            if (
                call.is_accepted
                and (call.is_handed_back or not call.is_settled)
                and (future := call.future) is not None
            ):
                futures.append(future)
                call.is_settled = call.is_handed_back = True
        return futures

    def _close_when_idle(self) -> None:
        if self.supervisor.workers:
            return  # `on_gone` calls again after the last of them
        if self._is_killed or self._is_idle():
            self._finish_closing()
        else:
            self._close_later()

    def _kill_all(self) -> None:
        self.cancel_waiting()  # now: `_call_ended` of each call must be posted before the loop stops
        for worker in list(self.supervisor.workers.values()):
            self._end_killed(worker)
        self._close_when_idle()

    def _forget_all(self) -> None:
        self._unfinished.clear()
