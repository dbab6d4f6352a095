"""The engine behind an executor: it takes each call from `submit` to a worker, and ends everything after the last call.

    submit ─► dependencies:   wait for futures among the arguments, by callback
           ─► function_cache: may the function be sent once?
           ─► serialization:  arguments to bytes
           ─► dispatcher:     bytes to a worker, result to the future
    close  ─► when the last call has ended: pool, dispatcher

The threads that work for an executor refer to its engine, never to the executor itself. So Python can collect an
executor that the user has dropped; its calls still run to their end, and then everything ends.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING, Any

from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool._core.future_core import set_green_threads
from pympipool._core.pickle_writer import dump_small_call
from pympipool._util import green_threads
from pympipool._util.reprs import callable_name
from pympipool._util.service_threads import flush_records, must_not_wait
from pympipool.execution import trace_registry
from pympipool.execution.blocked_calls import BlockedCalls
from pympipool.execution.dependencies import check_resolves
from pympipool.execution.drain import Drain
from pympipool.execution.open_engines import open_engines
from pympipool.execution.retries import Retries
from pympipool.execution.sending import Sender
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception
from pympipool.serialization.future_search import search_futures
from pympipool.serialization.plain import CALL_SCALARS

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from pympipool._core.mailbox import Mailbox
    from pympipool._core.trace_buffer import Recorder
    from pympipool.execution.function_cache import FrozenFunction
    from pympipool.execution.interfaces import CallEntry, PendingSource, Pool
    from pympipool.resources import Resources
    from pympipool.serialization.payload import BatchMarker, PackedColumns

LOGGER = logging.getLogger("pympipool.pool")

CLOSED = "cannot schedule new futures after shutdown"
"""Message of the error that `submit` raises after `shutdown`; the same as in the standard library."""

KILL_LIMIT_S = 10.0
"""Longest wait for the end of workers that were killed: SIGKILL does not end a process that hangs in the kernel."""

CLOSE_LIMIT_S = 20.0
"""Longest wait for the end of workers after the last call: they have `WORKER_EXIT_GRACE_S` to exit, then they are killed."""

THREADS_END_S = 1.0
"""Shortest time that the threads of an executor have to end after its last worker."""


class Engine:
    """Runs the calls of one executor.

    Args:
        make_pool: Makes the pool of workers for a dispatcher.
        resolve_dependencies: Wait for futures among the arguments. False: such futures are an error.
        workers_see_files: The workers run on this machine and see the same files.
        share_above: The size, in bytes, from which an array that many calls get is shared. None: none is.
        executor_info: Options of the executor, for traces.
        owner: The executor. When Python collects it, the engine is closed.
    """

    has_workers = True

    def __init__(
        self,
        make_pool: Callable[[Dispatcher], Pool],
        *,
        owner: object,
        resolve_dependencies: bool = True,
        workers_see_files: bool = False,
        share_above: int | None = None,
        executor_info: dict[str, Any] | None = None,
    ) -> None:
        if green_threads.are_active():
            set_green_threads(green_threads)
        self.dispatcher = Dispatcher(payload.load, load_exception, self._on_kill_requested)
        self.resolve_dependencies = resolve_dependencies
        self.workers_see_files = workers_see_files
        self.executor_info = {} if executor_info is None else executor_info
        self.in_forked_child = False
        self._was_killed = False
        self.is_drained = False
        self._pending_sources: dict[PendingSource, None] = {}
        with ExitStack() as undo:  # what was made is ended again, last first, if something cannot be made
            undo.callback(self.dispatcher.abandon)
            self.pool = make_pool(self.dispatcher)
            undo.callback(self.pool.abandon)
            self._sender = Sender(self.dispatcher, self.pool, workers_see_files, share_above)
            self._blocked = BlockedCalls(self.dispatcher, self._sender)
            self._retries = Retries(self.dispatcher, self.pool)
            self._drain = Drain(self.dispatcher, self._pending_sources, self._blocked, self._retries)
            # Ctrl-C may end `undo` too. So the first thread is the one that ends all of them when the owner is dropped.
            # The callback runs no Python code in the thread that drops the executor, so that Ctrl-C cannot interrupt it.
            self._owner = weakref.ref(owner, self.pool.mailbox.prepare(self._owner_is_gone).send)
            self.pool.open()
            self.dispatcher.start()
            self.pool.start_workers()  # after all threads: the start of a thread waits while another one is busy
            open_engines.add(self)
            trace_registry.register(self)
            undo.pop_all()

    def hosts(self) -> list[dict[str, Any]]:
        """Return number, host and process id of rank 0, and hosts of all ranks, for each worker that serves calls."""
        return self.pool.hosts()

    # ---- calls ----

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None = None,
        cache_entry: CallEntry | None = None,
    ) -> Future[Any]:
        """Queue a call. It stays what it is now, however long it waits.

        Args:
            resources: Resources of the call, for a pool that starts a worker for each call.
            cache_entry: That of the future, if the result will be cached. It is set before the call is pickled, so that
                nothing in it changes, and before it is sent: so the worker knows.

        Raises:
            RuntimeError: After `close`, or in a forked process.
            TypeError: fn is not callable, or a future is among the arguments of an engine that does not resolve them.
        """
        self.check_usable(fn)
        future: Future[Any] = Future()
        future.cache_entry = cache_entry
        self.dispatcher.adopt(future)
        if resources is not None and resources.retries:
            self._retries.prepare(future, resources)
        parts = None
        if self.pool.keeps_functions and type(fn) is not MethodType:
            parts = dump_small_call(args, kwargs, CALL_SCALARS)
        search = search_futures(args, kwargs) if parts is None else None
        if search is not None and search.futures:
            self.check_resolves(callable_name(fn))
            self._blocked.submit(future, fn, args, kwargs, resources, search)
        else:
            self._sender.send(future, fn, args, kwargs, resources, parts=parts)
        return future

    def freeze_function(self, fn: Callable[..., Any], *, in_full: bool = False) -> Callable[..., Any] | FrozenFunction:
        """Return a function as it is now, for batches that are submitted later (see `Sender.freeze`)."""
        return self._sender.freeze(fn, in_full=in_full)

    def submit_batch(
        self, fn: Callable[..., Any] | FrozenFunction, columns: PackedColumns, resources: Resources | None
    ) -> Future[Any]:
        """Queue a batch: fn for each row of the columns. Accepted also after `close` (see `add_pending_source`).

        Returns:
            The future of a `pympipool.worker.batches.Batch`.
        """
        future: Future[Any] = Future()
        future.rows = len(columns[0])
        self.dispatcher.adopt(future)
        is_traced = future.submitted_ns != 0
        marker: BatchMarker = payload.TRACED_BATCH if is_traced else payload.BATCH
        self._sender.send(future, fn, columns, marker, resources, admitted=True)
        return future

    def add_pending_source(self, source: PendingSource, start: Callable[[], object]) -> None:
        """Stay open for calls that a source will submit later.

        Args:
            start: Called in the continuation thread, in which the source submits its calls.
        """
        if not self.dispatcher.admit(self._pending_sources, source, self.dispatcher.continuations, start, True):
            source.cancel_rest()

    def remove_pending_source(self, source: PendingSource) -> None:
        """Forget a source that will submit no more calls (see `add_pending_source`)."""
        self._pending_sources.pop(source, None)
        self.dispatcher.wake_waiting_thread()

    @property
    def continuations(self) -> Mailbox:
        """The mailbox of the continuation thread, which submits calls that depend on others."""
        return self.dispatcher.continuations

    def resize(self, workers: int, cores: int) -> None:
        """Change the number of workers, or the number of cores that all calls together may use.

        Raises:
            RuntimeError: After `close`, or in a forked process.
            ValueError: A waiting call needs more cores.
        """
        self.check_open()
        self.pool.resize(workers, cores)

    def check_usable(self, fn: Callable[..., Any]) -> None:
        """Raise if fn cannot be submitted now.

        Raises:
            RuntimeError: After `close`, or in a forked process.
            TypeError: fn is not callable.
        """
        self.check_open()
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; it must be callable")

    @property
    def is_open(self) -> bool:
        """True while calls can be submitted."""
        return not self.in_forked_child and self.dispatcher.is_open

    @property
    def state(self) -> str:
        """Return "open", "drained" or "shut down"."""
        if not self.is_open:
            return "shut down"
        return "drained" if self.is_drained else "open"

    def check_open(self) -> None:
        """Raise RuntimeError if no calls can be submitted."""
        if self.in_forked_child:
            raise RuntimeError(
                "this executor belongs to the process that made it, and this is a fork of it: make an Executor here"
            )
        self.dispatcher.check_open()

    def check_resolves(self, name: str) -> None:
        """Raise TypeError if a future must not be among the arguments of a function, with this name."""
        check_resolves(self.resolve_dependencies, name)

    # ---- counts ----

    def blocked_count(self) -> int:
        """Return the number of calls that wait for results of others, without those cancelled meanwhile."""
        return self._blocked.count()

    def blocked_graph(
        self, most: int, most_inputs: int
    ) -> list[tuple[Future[Any], str, list[StandardFuture[Any]], int]]:
        """Return what `BlockedCalls.graph` returns."""
        return self._blocked.graph(most, most_inputs)

    def retrying_count(self) -> int:
        """Return the number of calls that wait for their next attempt."""
        return self._retries.count()

    def waiting_count(self) -> int:
        """Return the number of submitted calls that were not sent to a worker yet."""
        return self.blocked_count() + self.retrying_count() + self.pool.waiting_count() + self.dispatcher.waiting_count

    def unsubmitted_count(self) -> int:
        """Return the number of calls that pending sources have not submitted yet (see `add_pending_source`)."""
        return sum(map(len, list(self._pending_sources)))

    def _pending_count(self) -> int:
        """Return 0 if no more calls will reach the dispatcher."""
        return len(self._pending_sources) + self._blocked.has_any() + self.pool.unfinished_count()

    # ---- for a trace ----

    def record(self, recorder: Recorder | None) -> None:
        """Record the calls that are submitted from now on.

        Args:
            recorder: None stops recording. Calls that have not ended by then count as unfinished.
        """
        self.dispatcher.record_unfinished([*self._blocked.futures(), *self._retries.futures()])
        self.dispatcher.record_unfinished(self.pool.waiting_futures())
        self.dispatcher.record(recorder)

    # ---- the end ----

    def drain(self) -> None:
        """Begin no more calls, and hand those back that have not begun; return at once. A signal handler may call this."""
        if not self.in_forked_child:
            # First, and in one step: it does the rest too, should Ctrl-C end this method.
            self.pool.drain(self._hand_back)
            self._begin_no_more()

    def _begin_no_more(self) -> None:
        self.is_drained = True
        self._retries.close()
        self._blocked.close()
        self.dispatcher.reject(self._drain.late_error)

    def _hand_back(self, futures: list[Future[Any]]) -> None:
        self._begin_no_more()
        self._drain.hand_back(futures)

    @green_threads.lets_others_run
    def close(self, *, wait: bool, cancel: bool = False) -> None:
        """Refuse further calls, and end everything after the last call has ended.

        Args:
            wait: Return only when everything has ended. Without effect in a service thread of any executor, where the
                garbage collector may run a `__del__` that closes this one: the end may need that thread.
            cancel: Cancel the calls that no worker has started.
        """
        if self.in_forked_child:
            return
        wait = wait and not must_not_wait()
        if self._was_killed:  # perhaps not to the end: `kill` may have been interrupted
            self.request_kill()
        self.dispatcher.close(CLOSED)
        self._sender.large_payloads.clear()
        trace_registry.unregister(self)
        self._blocked.recheck()
        if cancel or self._was_killed:
            self._cancel_waiting()
        try:
            if wait:
                self.dispatcher.wait_until_idle(self._pending_count)
        finally:
            self.pool.close(self._pending_count)
        if wait:
            self._wait_for_end(CLOSE_LIMIT_S)

    @green_threads.lets_others_run
    def kill(self, *, wait: bool = True, grace_s: float = 0.0) -> None:
        """End everything now: cancel waiting calls, and kill the workers even while they run calls.

        Args:
            wait: Return only when everything has ended.
            grace_s: Send the workers SIGTERM now, and kill those that have not ended after this time.
        """
        if self.in_forked_child:
            return
        self.request_kill(grace_s)
        trace_registry.unregister(self)
        self._cancel_waiting()
        if wait:
            self._wait_for_end(grace_s + KILL_LIMIT_S)

    def request_kill(self, grace_s: float = 0.0) -> None:
        """Have everything ended now, and return at once (see `kill`)."""
        if not self.in_forked_child:
            self._was_killed = True
            self.dispatcher.kill(CLOSED)
            self._sender.large_payloads.clear()
            self.pool.kill(grace_s=grace_s)

    def _cancel_waiting(self) -> None:
        """Cancel the calls that no worker has started. Their callbacks run in the thread for callbacks."""
        for source in list(self._pending_sources):
            source.cancel_rest()
        self._blocked.cancel()
        self._retries.cancel()
        self.pool.cancel_waiting()
        self.dispatcher.cancel_waiting()

    def _wait_for_end(self, limit_s: float) -> None:
        """Wait for the end of all workers and threads, at most for limit_s, and then name what has not ended."""
        if must_not_wait():
            return
        deadline_s = monotonic() + limit_s
        has_ended = self.pool.wait_closed(limit_s) and self.dispatcher.join(
            max(deadline_s - monotonic(), THREADS_END_S)
        )
        flush_records()
        if has_ended:
            open_engines.discard(self)
            return
        LOGGER.error(
            "the executor has not ended within %g s, and is left to itself: %s", limit_s, self.pool.describe_rest()
        )

    def _owner_is_gone(self) -> None:
        self.close(wait=False)

    def _on_kill_requested(self) -> None:
        self.pool.kill_requested_workers()

    def after_fork_in_child(self) -> None:
        """Release everything inherited, in a forked child, so that neither process affects the other."""
        self.in_forked_child = True
        self.dispatcher.after_fork_in_child()
        self.pool.after_fork_in_child()
