"""What works behind an executor: its way of one call, and the end of all of them.

    submit ─► dependencies: wait for futures among the arguments, by callback
           ─► functions:     may the function travel once?
           ─► serialization: arguments to bytes
           ─► dispatcher:    bytes to a worker, result to the future
    close  ─► when the last call has ended: pool, dispatcher

The threads that work for an executor refer to its engine, never to the executor itself. So an executor that is
forgotten is noticed; its calls still run to their end, and then everything ends.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future as StandardFuture
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pympipool._core.calls import FunctionHandle
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool._util.reprs import callable_name
from pympipool.errors import SerializationError
from pympipool.execution import trace_registry
from pympipool.execution.dependencies import find_futures, resolve, when_all_done
from pympipool.execution.function_cache import FunctionTable
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception, without_frames

if TYPE_CHECKING:
    from pympipool._core.trace_buffer import Recorder
    from pympipool.resources import Resources

CLOSED = "cannot schedule new futures after shutdown"  # the standard library's words

HANDLES_MAX = 1024
"""Functions whose pickles are kept at hand; the table of functions keeps fewer alive."""

PACKED_BYTES = 4096
"""Smaller results are unpickled and pickled again in less time than it takes to hand them on as they are."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Pool(Protocol):
    """What an engine asks of a pool (see `pympipool.pool`)."""

    keeps_functions: bool  # its workers live longer than a call, so functions need travel but once

    def open(self) -> None: ...
    def submit(
        self,
        future: Future[Any],
        function: FunctionHandle | None,
        parts: list[Any],
        resources: Resources | None,
        admitted: bool,
    ) -> None: ...
    def waiting_count(self) -> int: ...
    def waiting_futures(self) -> list[Future[Any]]: ...
    def unfinished_count(self) -> int: ...
    def cancel_waiting(self) -> None: ...
    def close(self, pending: Callable[[], int]) -> None: ...
    def kill(self) -> None: ...
    def check_damage(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
    def wait_closed(self) -> None: ...
    def hosts(self) -> list[dict[str, Any]]: ...
    def states(self) -> list[dict[str, Any]]: ...
    def resize(self, workers: int, cores: int) -> None: ...


class BlockedCall:
    """A call that waits for futures among its arguments."""

    __slots__ = ("args", "fn", "future", "kwargs", "resources")

    def __init__(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None,
    ) -> None:
        self.future = future
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.resources = resources


class Engine:
    """Runs the calls of one executor.

    Args:
        make_pool: makes the pool of workers for a dispatcher.
        resolve_dependencies: whether futures among the arguments are waited for; else they are an error.
        about: what the executor was made with, as a trace tells it.
    """

    def __init__(
        self,
        make_pool: Callable[[Dispatcher], Pool],
        *,
        resolve_dependencies: bool = True,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.dispatcher = Dispatcher(payload.load, load_exception, self._on_damage)
        self.functions = FunctionTable()
        self.resolve_dependencies = resolve_dependencies
        self.about = {} if about is None else about
        self.in_forked_child = False
        self._handles: dict[int, FunctionHandle] = {}
        self._blocked: set[BlockedCall] = set()
        self._held: set[Sized] = set()
        self.pool = make_pool(self.dispatcher)
        self.dispatcher.start()
        self.pool.open()
        _engines.add(self)
        trace_registry.join(self)

    def hosts(self) -> list[dict[str, Any]]:
        """What each serving worker's rank 0 said of itself."""
        return self.pool.hosts()

    # ---- calls ----

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None = None,
    ) -> Future[Any]:
        """Queues a call.

        Args:
            resources: what the call needs, for a pool that starts a worker for each call.

        Raises:
            RuntimeError: after `close`, and in a forked process.
            TypeError: fn cannot be called, or a future is among the arguments and must not be.
        """
        self.check_usable(fn)
        future: Future[Any] = Future()
        self.dispatcher.adopt(future)
        inputs = find_futures(args, kwargs)
        if inputs:
            self._submit_later(BlockedCall(future, fn, args, kwargs, resources), inputs)
        else:
            self._send(future, fn, args, kwargs, resources)
        return future

    def submit_batch(
        self, fn: Callable[..., Any], columns: tuple[Sequence[Any], ...], resources: Resources | None
    ) -> Future[Any]:
        """Queues a batch: fn for each row of the columns. Admitted also after `close`, see `hold`.

        Returns:
            The future of a `pympipool.worker.batches.Batch`.
        """
        future: Future[Any] = Future()
        future.rows = len(columns[0])
        self.dispatcher.adopt(future)
        traced = future.submitted_ns != 0
        self._send(future, fn, columns, False if traced else None, resources, admitted=True)
        return future

    def hold(self, calls: Sized) -> None:
        """Puts off the end: calls will come that were asked for already, len(calls) as seen at any time."""
        self._held.add(calls)

    def release(self, calls: Sized) -> None:
        """Takes a `hold` back."""
        self._held.remove(calls)
        self.dispatcher.kick()

    def resize(self, workers: int, cores: int) -> None:
        """Changes the number of workers, or of the cores that calls may have together.

        Raises:
            RuntimeError: after `close`, and in a forked process.
            ValueError: a call that waits asks for more cores.
        """
        self.check_open()
        self.pool.resize(workers, cores)

    def check_usable(self, fn: Callable[..., Any]) -> None:
        """Raises what is wrong with submitting fn now."""
        self.check_open()
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; it must be callable")

    @property
    def is_open(self) -> bool:
        """Whether calls are taken."""
        return not self.in_forked_child and self.dispatcher.is_open

    def check_open(self) -> None:
        """Raises RuntimeError where no call is taken."""
        if self.in_forked_child:
            raise RuntimeError(
                "this executor belongs to the process that made it, and this is a fork of it: make an Executor here"
            )
        self.dispatcher.check_open()

    def _send(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | Literal[False] | None,
        resources: Resources | None,
        admitted: bool = False,
    ) -> None:
        """Pickles a call and hands it to the pool; what cannot be pickled ends its future."""
        try:
            function = self.functions.lookup(fn) if self.pool.keeps_functions else None
            if function is None:
                future.function_name = callable_name(fn)
                parts = payload.dump_call(0, fn, args, kwargs)
                handle = None
            else:
                future.function_name = function.name
                parts = payload.dump_call(function.number, fn, args, kwargs)
                handle = self._handles.get(function.number) or self._new_handle(function.number, function.payload)
        except SerializationError as error:
            self.dispatcher.fail(future, without_frames(error))
            return
        self.pool.submit(future, handle, parts, resources, admitted)

    def _new_handle(self, number: int, payload: bytes) -> FunctionHandle:
        handle = FunctionHandle(number, payload)
        self._handles[number] = handle
        while len(self._handles) > HANDLES_MAX:
            del self._handles[next(iter(self._handles))]
        return handle

    # ---- calls that wait for others ----

    def _submit_later(self, blocked: BlockedCall, inputs: list[StandardFuture[Any]]) -> None:
        if not self.resolve_dependencies:
            raise TypeError(
                f"a future is among the arguments of {callable_name(blocked.fn)}(), and"
                " disable_dependencies=True: pass its result(), or make the executor with disable_dependencies=False"
            )
        self._blocked.add(blocked)
        if blocked.future.submitted_ns:
            blocked.future.function_name = callable_name(blocked.fn)
            self.dispatcher.note_inputs(blocked.future, inputs)

        def go_on(error: BaseException | None, cancelled: bool) -> None:
            try:
                self._unblock(blocked, error, cancelled)
            except Exception as failure:
                self.dispatcher.fail(blocked.future, failure)
            finally:
                self._blocked.discard(blocked)
                self.dispatcher.kick()

        when_all_done(inputs, go_on)

    def _unblock(self, blocked: BlockedCall, error: BaseException | None, cancelled: bool) -> None:
        """Sends a call whose inputs are done; ends it if one of them has failed or was cancelled."""
        if blocked.future.done():
            return  # cancelled meanwhile
        if cancelled:
            blocked.future.cancel()
        elif error is not None:
            self.dispatcher.fail(blocked.future, error)
        else:
            args, kwargs = resolve(blocked.args, blocked.kwargs, _result_or_packed)
            self._send(blocked.future, blocked.fn, args, kwargs, blocked.resources, admitted=True)

    def blocked_count(self) -> int:
        """Calls that wait for the results of others; not those that were cancelled meanwhile."""
        return sum(not blocked.future.done() for blocked in list(self._blocked))

    def waiting_count(self) -> int:
        """Calls that no worker has been given."""
        return self.blocked_count() + self.pool.waiting_count() + self.dispatcher.waiting_count

    def held_count(self) -> int:
        """Calls that will come, see `hold`."""
        return sum(map(len, list(self._held)))

    def _pending_count(self) -> int:
        """Calls that the dispatcher does not know yet."""
        return len(self._held) + self.blocked_count() + self.pool.unfinished_count()

    # ---- for a trace ----

    def record(self, recorder: Recorder | None) -> None:
        """Has the calls recorded that are submitted from now on; None: no more, and those under way are unfinished."""
        self.dispatcher.note_unfinished([blocked.future for blocked in list(self._blocked)])
        self.dispatcher.note_unfinished(self.pool.waiting_futures())
        self.dispatcher.record(recorder)

    # ---- the end ----

    def close(self, *, wait: bool, cancel: bool = False) -> None:
        """Takes no more calls, and ends everything once those that are there have ended.

        Args:
            wait: return only then.
            cancel: cancel the calls that no worker has begun.
        """
        if self.in_forked_child:
            return
        self.dispatcher.close(CLOSED)
        trace_registry.leave(self)
        if cancel:
            for blocked in list(self._blocked):
                blocked.future.cancel()
            self.pool.cancel_waiting()
            self.dispatcher.cancel_waiting()
        if wait:
            self.dispatcher.wait_until_idle(self._pending_count)
        self.pool.close(self._pending_count)
        if wait:
            self.pool.wait_closed()
            self.dispatcher.join()
            _engines.discard(self)

    def kill(self) -> None:
        """Ends everything now: cancels what waits, and ends the workers whatever they do."""
        if self.in_forked_child:
            return
        self.dispatcher.close(CLOSED)
        trace_registry.leave(self)
        for blocked in list(self._blocked):
            blocked.future.cancel()
        self.pool.cancel_waiting()
        self.dispatcher.cancel_waiting()
        self.pool.kill()
        self.pool.wait_closed()
        self.dispatcher.join()
        _engines.discard(self)

    def _on_damage(self) -> None:
        self.pool.check_damage()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of everything, so that neither process feels the other."""
        self.in_forked_child = True
        self.dispatcher.after_fork_in_child()
        self.pool.after_fork_in_child()


def _result_or_packed(future: StandardFuture[Any]) -> Any:
    """A result to hand on to another call: large ones as they came, without unpickling them here."""
    packed = future.packed_result() if isinstance(future, Future) else None
    if packed is None or sum(map(len, packed)) < PACKED_BYTES:
        return future.result()
    return payload.Pickled(packed)


def _close_all_at_exit() -> None:
    """Calls that were submitted run to their end, as in the standard library; not after Ctrl-C."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for engine in list(_engines):
        if interrupted:
            engine.kill()
            continue
        try:
            engine.close(wait=True)
        except KeyboardInterrupt:
            interrupted = True
            engine.kill()


def _abandon_all_in_child() -> None:
    for engine in list(_engines):
        engine.after_fork_in_child()


atexit.register(_close_all_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all_in_child)
