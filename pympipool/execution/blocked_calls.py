"""Calls that wait for futures among their arguments.

Engine.submit ─► BlockedCalls.add ─► InputWaiter: told by each input when it has ended
│ in the continuation thread
Sender.send  ◄── arguments with the results ◄────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._util.reprs import callable_name
from pympipool.execution.dependencies import (
    InputError,
    InputWaiter,
    find_futures,
    has_result,
    is_cancelled,
    resolve,
    result_of,
)
from pympipool.serialization import payload
from pympipool.serialization.plain import Pickled
from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from pympipool._core.dispatcher import Dispatcher
    from pympipool.resources import Resources

FORWARD_PICKLED_BYTES = 4096
"""Size from which a result is passed on to another call as it came, without unpickling and pickling it in the master.

For a smaller result, unpickling and pickling takes less time."""


class BlockedCall:
    """A call that waits for futures among its arguments, its inputs."""

    __slots__ = ("args", "fn", "future", "inputs", "kwargs", "resources")

    inputs: InputWaiter

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


class BlockedCalls:
    """The calls of one engine that wait for others.

    Args:
        dispatcher: Its continuation thread handles the ends of inputs.
        send: Sends a call whose inputs have results: future, function, args, kwargs, resources.
    """

    def __init__(self, dispatcher: Dispatcher, send: Callable[..., None]) -> None:
        self._dispatcher = dispatcher
        self._send = send
        self._calls: dict[BlockedCall, None] = {}
        self._is_closed = False

    # ---- for any thread ----

    def add(self, blocked: BlockedCall, inputs: list[StandardFuture[Any]]) -> None:
        """Send a call as soon as its inputs have results."""
        blocked.future.function_name = callable_name(blocked.fn)
        if blocked.future.submitted_ns:
            self._dispatcher.record_inputs(blocked.future, inputs)
        mailbox = self._dispatcher.continuations
        blocked.inputs = InputWaiter(inputs, partial(self._on_inputs_done, blocked), mailbox)
        blocked.inputs.watch()
        if not self._dispatcher.admit(self._calls, blocked, mailbox, blocked.inputs.accept, False):
            self._dispatcher.cancel(blocked.future)

    def futures(self) -> list[Future[Any]]:
        """Return the futures of all blocked calls."""
        return [blocked.future for blocked in list(self._calls)]

    def graph(self, most: int, most_inputs: int) -> list[tuple[Future[Any], str, list[StandardFuture[Any]], int]]:
        """Return the first blocked calls.

        Args:
            most: How many calls.
            most_inputs: How many inputs, of all of them together.

        Returns:
            The future of each, the name of its function, its inputs that are not done, and how many of them are left out.
        """
        found = []
        for blocked in islice(list(self._calls), most):
            pending = blocked.inputs.pending()
            first = pending[:most_inputs]
            most_inputs -= len(first)
            found.append((blocked.future, callable_name(blocked.fn), first, len(pending) - len(first)))
        return found

    def count(self) -> int:
        """Return the number of blocked calls, without those cancelled meanwhile."""
        return sum(not future.done() for future in self.futures())

    def has_any(self) -> bool:
        """Return True if a call is blocked. It is asked often, so it counts none of them."""
        try:
            return any(not blocked.future.done() for blocked in self._calls)
        except RuntimeError:  # the continuation thread has changed the dict meanwhile
            return True

    def recheck(self) -> None:
        """Look soon whether inputs have ended without telling it: futures of other libraries may be torn."""
        if self._calls:
            self._dispatcher.continuations.post(self._recheck_inputs)

    def close(self) -> None:
        """Send no more calls: those whose inputs end from now on stay here, and are handed back (see `drain.py`)."""
        self._is_closed = True

    def cancel(self) -> None:
        """Cancel all blocked calls."""
        for future in self.futures():
            self._dispatcher.cancel(future)

    # ---- in the continuation thread ----

    def _recheck_inputs(self) -> None:
        for blocked in list(self._calls):
            blocked.inputs.recheck()

    def _on_inputs_done(self, blocked: BlockedCall, failed: StandardFuture[Any] | None) -> None:
        if self._is_closed and not blocked.future.done():
            return
        try:
            self._unblock(blocked, failed)
        except BaseException as problem:  # unpickling an input may raise anything, SystemExit for example
            try:
                error = self._error_of_input(blocked, problem)
            except BaseException:  # no memory for more
                error = problem
            self._dispatcher.fail(blocked.future, error)
        finally:
            self._calls.pop(blocked, None)
            self._dispatcher.wake_waiting_thread()

    def _error_of_input(self, blocked: BlockedCall, problem: BaseException) -> BaseException | InputError:
        inputs = find_futures(blocked.args, blocked.kwargs)
        failed = next((future for future in inputs if not has_result(future)), None)
        return without_frames(problem) if failed is None else InputError(failed)

    def _unblock(self, blocked: BlockedCall, failed: StandardFuture[Any] | None) -> None:
        """Send a call whose inputs are done. Fail or cancel it if an input failed or was cancelled."""
        if blocked.future.done():
            return  # the user cancelled it meanwhile
        if failed is None:
            args, kwargs = resolve(blocked.args, blocked.kwargs, _result_or_pickled)
            self._send(blocked.future, blocked.fn, args, kwargs, blocked.resources)
        elif is_cancelled(failed):
            self._dispatcher.cancel(blocked.future)
        else:
            self._dispatcher.fail(blocked.future, InputError(failed))


def _result_or_pickled(future: StandardFuture[Any]) -> Any:
    """Return a result to pass on to another call. A large result stays pickled: the master need not unpickle it.

    A result with a class of the script is pickled again: the call has to find the class as it is now. So is one with a handle of
    shared data: the call gets the object.
    """
    parts = future.pickled_result() if isinstance(future, Future) else None
    if parts is None or sum(map(len, parts)) < FORWARD_PICKLED_BYTES or payload.must_be_unpickled(parts):
        return result_of(future)
    return Pickled(parts)
