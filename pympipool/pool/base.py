"""What both pools have in common: the supervisor, the interface that the engine uses, and the end of the pool."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pympipool._core.future import Future
from pympipool._util.service_threads import ServiceLogger
from pympipool.pool.failures import import_for_failures, supervisor_crash_error, with_note, worker_died_error
from pympipool.pool.later import DelayedCalls, Drain
from pympipool.pool.supervisor import Supervisor
from pympipool.pool.timeouts import watch_for_stuck_ranks
from pympipool.pool.worker_handle import State

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool.pool.worker_handle import WorkerHandle
    from pympipool.resources import Resources

LOGGER = ServiceLogger("pympipool.pool")

THREAD_END_S = 1.0
"""Shortest time that the supervisor's thread has to end after the last worker."""

CRASH_WAIT_S = 1.0
"""Wait for the end of each worker that was killed because the supervisor has ended."""

ENDED_ON_REQUEST = (
    "its executor has ended it, by kill_workers(), terminate_workers(), shutdown(kill_workers=True) or after Ctrl-C"
)

IMPORT_DELAY_S = 0.25
"""Time after the start of an executor at which the supervisor imports what failures need: the first result must not wait."""

ABANDON_S = 5.0
"""Longest wait for the end of a pool whose executor could not be made."""

IDLE_CHECK_S = 0.02
"""Interval between two checks of a condition that nothing signals, such as the end of the last call of a closing pool."""


class Closable(Protocol):
    """What a pool asks of its spawner besides starting workers."""

    def close(self) -> None:
        """End the processes that it keeps running besides workers."""

    def after_fork_in_child(self) -> None:
        """Release in a forked child what belongs to the parent."""


SpawnerT = TypeVar("SpawnerT", bound=Closable)


class BasePool(ABC, Generic[SpawnerT]):
    """A pool without a policy: subclasses decide when workers start, and what follows when one is gone.

    Methods without an underscore may be called from any thread, except for `on_...`, which like all others run in the
    supervisor's thread.

    Args:
        dispatcher: Gets the workers, and carries their calls.
        spawner: Starts the workers.
        settings: What each rank is sent when it has connected (see docs/design.md).

    Attributes:
        keeps_functions: A worker serves several calls, so it is worth sending a function once.
        restart_limit: Number of retries of a call whose worker has died, if workers serve several calls.
        mailbox: The mailbox of the supervisor's thread.
    """

    keeps_functions: bool
    restart_limit = 0

    def __init__(self, dispatcher: Dispatcher, spawner: SpawnerT, settings: dict[str, Any]) -> None:
        self.dispatcher = dispatcher
        self.spawner = spawner
        self.supervisor = Supervisor(self, settings, dispatcher)
        self.loop = self.supervisor.loop
        self.mailbox = self.loop.mailbox
        self._is_closing = False  # `close` was called
        self._is_killed = False  # `kill` was called
        self._kill_grace_s = 0.0  # of the last call of it
        self._checks_later = False  # a timer of `_close_later` is set
        self._drain = Drain(self.loop, dispatcher, self._take_unbegun)
        self._delayed_calls = DelayedCalls(self.loop)
        self._closed: Future[None] = Future()  # unlike an Event it holds no lock that Ctrl-C could leave locked
        self._pending: Callable[[], int] = self.unfinished_count

    # ---- calls ----

    @abstractmethod
    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None:
        """Take a call.

        Args:
            future: Gets its result.
            function: Its function, if that is sent only once.
            parts: Its pickle and buffers.
            resources: What it needs; None: what the workers have.
            admitted: The call was submitted before `close`, and is taken even if the pool closes by now.

        Raises:
            RuntimeError: The pool takes no more calls.
        """

    @abstractmethod
    def waiting_count(self) -> int:
        """Count the calls that wait for a worker here, not in the dispatcher."""

    @abstractmethod
    def waiting_futures(self) -> list[Future[Any]]:
        """Return the futures of the calls that the dispatcher does not have yet."""

    @abstractmethod
    def unfinished_count(self) -> int:
        """Count the calls that were accepted and have not ended, and that the dispatcher may not have yet."""

    @abstractmethod
    def cancel_waiting(self) -> None:
        """Cancel the calls that wait here."""

    def call_later(self, delay_s: float, function: Callable[[], object]) -> None:
        """Have a function called after a delay; at once if the supervisor fails, so that it is not lost.

        Args:
            function: It must not wait for anything. It is called in the supervisor's thread.
        """
        self._delayed_calls.add(delay_s, function)

    # ---- workers ----

    def open(self) -> None:
        """Start the supervisor."""
        self.loop.start()
        self.dispatcher.supervisor_thread_id = self.loop.thread.ident or 0
        self.loop.call(self._import_later)

    def _import_later(self) -> None:
        self.loop.call_later(IMPORT_DELAY_S, import_for_failures)

    def start_workers(self) -> None:
        """Do nothing: workers are started for calls."""

    def abandon(self) -> None:
        """Release everything, in place of `open`, after it has failed, or if the executor could not be made."""
        if self.loop.thread.revoke():
            self.supervisor.close()
            self.spawner.close()
        else:  # it ends everything, also if Ctrl-C ends this
            self.kill()
            self.wait_closed(ABANDON_S)

    @abstractmethod
    def resize(self, workers: int, cores: int) -> None:
        """Change the size of the pool; return at once.

        Args:
            workers: The number of workers, where that is fixed.
            cores: The cores of all workers together.
        """

    def kill_requested_workers(self) -> None:
        """Kill the workers that the dispatcher wants to be killed (see `Dispatcher.workers_to_kill`)."""
        self.loop.call(self._kill_requested)

    def hosts(self) -> list[dict[str, Any]]:
        """Describe each serving worker (see `Supervisor.describe_workers`)."""
        return self.supervisor.describe_workers()

    def show(self, report: Callable[[], bytes]) -> None:
        """Let viewers see what a function returns (see `Supervisor.show`)."""
        self.supervisor.show(report)

    def call_when_closed(self, function: Callable[[], object]) -> None:
        """Have a function called when all workers are gone; at once if they are. It must not wait for anything."""
        self._closed.add_done_callback(lambda _: function())

    def states(self) -> list[dict[str, Any]]:
        """Describe each worker and its state (see `Supervisor.worker_states`)."""
        return self.supervisor.worker_states()

    @abstractmethod
    def on_ready(self, worker: WorkerHandle) -> None:
        """Let a worker serve."""

    def on_rank_error(self, worker: WorkerHandle, call: int) -> None:
        """Kill the worker if its other ranks do not return from a call that raised on one."""
        watch_for_stuck_ranks(self.supervisor, self.dispatcher, worker, call)

    def on_last_call(self, worker: WorkerHandle) -> None:
        """Do nothing: the pool knows how many calls a worker serves."""

    @abstractmethod
    def on_gone(self, worker: WorkerHandle) -> None:
        """Release what a worker had, and decide about its calls.

        If this raises, it is called again. So each step must find what an earlier call has done already.
        """

    def on_failure(self) -> None:
        """Do again what a handler may have left undone, whichever it was."""
        if self._is_killed:
            self._kill_all()
        elif self._is_closing:
            self._close_when_idle()
        self._kill_requested()
        self._drain.go_on()
        self._delayed_calls.call_all()
        self._resume()

    @abstractmethod
    def _resume(self) -> None:
        """Start the workers that are missing, and find the calls that nothing would look at again."""

    def _kill_requested(self) -> None:
        for number, is_cancelled in self.dispatcher.workers_to_kill():
            worker = self.supervisor.workers.get(number)
            if worker is None:
                continue
            if is_cancelled and not worker.runs_cancelled:
                LOGGER.info("worker %d is killed, because the call that it runs is cancelled", number)
            worker.runs_cancelled = is_cancelled
            self.supervisor.end_worker(worker)

    # ---- the end ----

    def drain(self, hand_back: Callable[[list[Future[Any]]], object]) -> None:
        """Begin no more calls, and let each worker end after its call; return at once.

        Args:
            hand_back: Ends the calls that have not begun. Called in the completion thread, again and again, with those that this
                pool has.
        """
        self._drain.begin(hand_back)

    @abstractmethod
    def _take_unbegun(self) -> list[Future[Any]]:
        """Start no workers, end those that run no call, and return the futures of calls that the dispatcher does not have."""

    def close(self, pending: Callable[[], int]) -> None:
        """End the workers once no call is left; return at once (see `wait_closed`).

        Args:
            pending: Counts the calls that the dispatcher does not know yet.
        """
        self._pending = pending
        self._is_closing = True
        self.loop.call(self._close_when_idle)

    def kill(self, *, grace_s: float = 0.0) -> None:
        """Kill the workers now, whatever they are doing; return at once.

        Args:
            grace_s: Send them SIGTERM now, and kill those that have not ended after this time.
        """
        self._kill_grace_s = grace_s
        self._is_killed = True
        self.loop.call(self._kill_all)

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until all workers are gone and the supervisor's thread has ended; return False if that takes longer."""
        deadline_s = monotonic() + timeout_s
        try:
            self._closed.result(timeout_s)
        except FutureTimeoutError:
            return False
        self.loop.thread.join(max(deadline_s - monotonic(), THREAD_END_S))
        self.supervisor.close_streams()
        return not self.loop.thread.is_alive()

    def describe_rest(self) -> str:
        """Name everything that has not ended yet, for a message."""
        workers = [
            f"worker {state['worker']} (pid {state['pid'] or 'unknown'}, host {', '.join(state['hosts']) or 'unknown'},"
            f" state {state['state']})"
            for state in self.states()
        ]
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("pympipool_")]
        return "; ".join(workers) or f"threads {', '.join(threads)}"

    def after_fork_in_child(self) -> None:
        """Close in a forked child what it inherited: else workers would not notice the end of the master."""
        self.supervisor.close()
        self.spawner.after_fork_in_child()

    @abstractmethod
    def _close_when_idle(self) -> None:
        """Close the pool, or check again later if there are calls."""

    def _close_later(self) -> None:
        """Call `_close_when_idle` again in a moment."""
        if not self._checks_later:
            self.loop.call_later(IDLE_CHECK_S, self._check_again)
            self._checks_later = True

    def _check_again(self) -> None:
        self._checks_later = False
        self._close_when_idle()

    @abstractmethod
    def _kill_all(self) -> None:
        """Kill all workers and close the pool."""

    def _end_killed(self, worker: WorkerHandle) -> None:
        """End a worker as `kill` was asked to."""
        if self._kill_grace_s > 0 and worker.state is not State.ENDING:
            worker.process.terminate()
        self.supervisor.end_worker(worker, grace_s=self._kill_grace_s)

    def _death_error(
        self, worker: WorkerHandle, future: Future[Any], note: str | None = None
    ) -> Callable[[], BaseException]:
        """Return a function that makes the error of a call whose worker has ended while it ran."""
        if self._is_killed and (worker.was_killed or worker.lost_reason is None):
            worker.lost_reason = ENDED_ON_REQUEST
        return worker_died_error(worker, future, note)

    def _fail_interrupted(self, worker: WorkerHandle, note: str | None = None) -> None:
        """Fail the calls that had begun on a worker that is gone. What the pool has killed it for may be a reason to retry."""
        reason = worker.kill_reason
        if reason is not None and note is not None:
            reason = with_note(reason, note)
        for future in worker.interrupted:
            if reason is not None:
                self.dispatcher.call_soon(self.dispatcher.fail_attempt, future, reason)
            else:
                self.dispatcher.fail_soon(future, self._death_error(worker, future, note))

    def _is_idle(self) -> bool:
        # in the order in which calls pass through: a call that moves on in between is counted in either place
        return self._pending() == 0 and self.dispatcher.unfinished_count == 0

    def _finish_closing(self) -> None:
        """End everything that is left once no worker is. A second time, it does nothing."""
        if self._closed.done():
            return
        self.loop.stop()
        self.dispatcher.supervisor_thread_id = 0
        try:
            self.spawner.close()
        finally:
            self.dispatcher.stop()
            self._closed.set_result(None)

    def on_crash(self, error: BaseException) -> None:
        """Fail all calls after the end of the supervisor: nothing watches workers any more."""
        make_error = partial(supervisor_crash_error, type(error).__name__)
        self.dispatcher.supervisor_thread_id = 0
        self.dispatcher.close(str(make_error()))
        self.dispatcher.fail_all(make_error)
        for worker in self._known_workers():
            try:
                worker.process.kill()
            except Exception:  # the other workers must be killed too
                LOGGER.exception("worker %d may be left", worker.number)
            for future in self._take_interrupted(worker):
                self.dispatcher.fail_soon(future, make_error)
        for future in self.waiting_futures():
            self.dispatcher.fail_soon(future, make_error)
        self._delayed_calls.call_all()
        self.dispatcher.call_soon(self._end_after_crash)

    def _take_interrupted(self, worker: WorkerHandle) -> list[Future[Any]]:
        """Remove a dead worker from the dispatcher; return the futures of the calls that it had begun, also a second time."""
        removed = self.dispatcher.remove_dead_worker(worker.number)
        worker.interrupted = removed or worker.interrupted  # allocates nothing: without memory they would be lost
        return worker.interrupted

    def _end_after_crash(self) -> None:
        for worker in self._known_workers():
            worker.process.wait(CRASH_WAIT_S)
            worker.process.close()
            worker.release()
        self.supervisor.workers.clear()
        self.supervisor.reaped.clear()
        self._forget_all()
        self._finish_closing()

    def _known_workers(self) -> list[WorkerHandle]:
        """Return all workers whose end was not dealt with."""
        return [*self.supervisor.workers.values(), *self.supervisor.reaped.values()]

    def _forget_all(self) -> None:
        """Count no call as unfinished any more."""
