"""Calls that wait for futures among their arguments.

    Engine.submit ─► BlockedCalls.add ─► pickled, with an `Input` for each future that has no result yet
                                      ─► InputWaiter: told by each of them when it has ended
                                                 │ in the continuation thread
    Sender.hand_over ◄── filled with the results ◄┘

A call is pickled when it is submitted, as one that waits for nothing. So later changes of its arguments, and of what its
function refers to, do not reach it. If its function is sent by number and nothing else can change, only the containers are copied,
and it is pickled at the end: that takes less time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from types import MethodType
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._util.reprs import callable_name
from pympipool.errors import SerializationError
from pympipool.execution.dependencies import (
    InputError,
    InputWaiter,
    has_result,
    has_result_now,
    is_cancelled,
    result_of,
)
from pympipool.serialization import payload
from pympipool.serialization.future_search import FutureSearch, resolve
from pympipool.serialization.inputs import Input, entry_and_origin
from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from pympipool._core.dispatcher import Dispatcher
    from pympipool.execution.function_cache import FrozenFunction
    from pympipool.execution.interfaces import InputResults
    from pympipool.execution.sending import Dumped, Sender
    from pympipool.resources import Resources


class BlockedCall:
    """A call that waits for futures among its arguments, its inputs.

    Attributes:
        future: Its future.
        fn, args, kwargs: The call. The arguments have results in the place of those futures that had one at `submit`.
        resources: What it needs.
        inputs: The other futures.
        waiter: Waits for them.
        frozen: The function with its number, if the call is pickled at the end.
        dumped: The pickled call, if it was pickled at `submit`.
        hashed: The ids of those inputs whose results must be hashable then.
    """

    __slots__ = ("args", "dumped", "fn", "frozen", "future", "hashed", "inputs", "kwargs", "resources", "waiter")

    waiter: InputWaiter

    def __init__(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None,
        inputs: list[StandardFuture[Any]],
    ) -> None:
        self.future = future
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.resources = resources
        self.inputs = inputs
        self.frozen: FrozenFunction | None = None
        self.dumped: Dumped | None = None
        self.hashed: set[int] = set()


class BlockedCalls:
    """The calls of one engine that wait for others.

    Args:
        dispatcher: Its continuation thread handles the ends of inputs.
        sender: Pickles the calls, and sends those whose inputs have results.
    """

    def __init__(self, dispatcher: Dispatcher, sender: Sender) -> None:
        self._dispatcher = dispatcher
        self._sender = sender
        self._calls: dict[BlockedCall, None] = {}
        self._is_closed = False

    # ---- for any thread ----

    def submit(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources | None,
        search: FutureSearch,
    ) -> None:
        """Send a call as soon as its inputs have results; now, if they have. If it cannot be pickled, fail its future.

        Args:
            search: Has found futures among the arguments.
        """
        inputs = search.futures
        if future.submitted_ns:
            self._dispatcher.record_inputs(future, inputs)
        results = _results_at_hand(future, inputs)
        inputs = [one for one in inputs if id(one) not in results]
        try:
            if results:
                args, kwargs = resolve(args, kwargs, lambda one: results.get(id(one), (one,))[0], search)
                search = FutureSearch([*args, *kwargs.values()])
            blocked = BlockedCall(future, fn, args, kwargs, resources, inputs)
            if inputs:
                self._freeze(blocked, search)
        except (SerializationError, TypeError, Warning) as error:  # TypeError: a result is a key, and cannot be hashed
            self._dispatcher.fail(future, without_frames(error))
            return
        if inputs:
            self._add(blocked)
        else:
            self._sender.send(future, fn, args, kwargs, resources)

    def _freeze(self, blocked: BlockedCall, search: FutureSearch) -> None:
        """Keep a call as it is now.

        Raises:
            SerializationError, Warning: As of `Sender.dump`.
        """
        fn: Callable[..., Any] | FrozenFunction = blocked.fn
        # More futures are those in results, which cannot be pickled.
        if type(fn) is not MethodType and search.is_all() and len(search.futures) == len(blocked.inputs):
            frozen = fn = self._sender.find(blocked.fn)
            if frozen.handle is not None:
                blocked.frozen = frozen
                blocked.args, blocked.kwargs = resolve(blocked.args, blocked.kwargs, lambda one: one, search)
                blocked.future.function_name = callable_name(blocked.fn)
                return
        stand_ins = {id(future): Input(number) for number, future in enumerate(blocked.inputs)}
        args, kwargs = resolve(blocked.args, blocked.kwargs, lambda one: stand_ins.get(id(one), one), search)
        blocked.hashed = search.hashed()
        blocked.dumped = self._sender.dump(blocked.future, fn, args, kwargs, waits=True)

    def _add(self, blocked: BlockedCall) -> None:
        mailbox = self._dispatcher.continuations
        blocked.waiter = InputWaiter(blocked.inputs, partial(self._on_inputs_done, blocked), mailbox)
        blocked.waiter.watch()
        if not self._dispatcher.admit(self._calls, blocked, mailbox, blocked.waiter.accept, False):
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
            pending = blocked.waiter.pending()
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
            blocked.waiter.recheck()

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
        failed = next((future for future in blocked.inputs if not has_result(future)), None)
        return without_frames(problem) if failed is None else InputError(failed)

    def _unblock(self, blocked: BlockedCall, failed: StandardFuture[Any] | None) -> None:
        """Send a call whose inputs are done. Fail or cancel it if an input failed or was cancelled."""
        if blocked.future.done():
            return  # the user cancelled it meanwhile
        if failed is None:
            self._send(blocked)
        elif is_cancelled(failed):
            self._dispatcher.cancel(blocked.future)
        else:
            self._dispatcher.fail(blocked.future, InputError(failed))

    def _send(self, blocked: BlockedCall) -> None:
        """Send a call with the results of its inputs."""
        future, fn, resources = blocked.future, blocked.fn, blocked.resources
        get = partial(_result_for, _input_results(future))
        if blocked.dumped is None:
            args, kwargs = resolve(blocked.args, blocked.kwargs, get)
            self._sender.send(future, blocked.frozen or fn, args, kwargs, resources, admitted=True)
            return
        results = [get(one) for one in blocked.inputs]
        for one, result in zip(blocked.inputs, results, strict=True):
            if id(one) in blocked.hashed:
                hash(result)  # raises the TypeError that the worker would tell as one of unpickling
        filled = self._sender.fill(blocked.dumped, fn, results)
        self._sender.hand_over(future, filled, fn, blocked.args, blocked.kwargs, resources, admitted=True)


def _results_at_hand(future: Future[Any], inputs: list[StandardFuture[Any]]) -> dict[int, tuple[Any]]:
    """Return the results, each in a tuple, of those inputs of a call that have one, by their id.

    One that was not read yet, and would have to be unpickled, is not at hand: unpickling may run code of the user, and that is
    for the thread of continuations. Nor is an item of a result of which another item is not: what they share must be one object.
    """
    results: dict[int, tuple[Any]] = {}
    get = _input_results(future)
    for one in inputs:
        try:
            if has_result_now(one) and not _is_unread(one):
                results[id(one)] = (_result_for(get, one),)
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ):  # unpickling may raise anything, and a file be gone: the call will fail as if the input had
            continue
    if get is not None:
        late = {id(entry_and_origin(one)[0]) for one in inputs if id(one) not in results} - {id(None)}
        for one in inputs:
            if id(entry_and_origin(one)[0]) in late:
                results.pop(id(one), None)
    return results


def _is_unread(one: StandardFuture[Any]) -> bool:
    parts = one.pickled_result() if isinstance(one, Future) else None
    return parts is not None and payload.is_loaded_to_pass_on(parts)


def _input_results(future: Future[Any]) -> InputResults | None:
    """Return what gives the results of inputs of the call of a future, if its own result will be stored."""
    return None if future.cache_entry is None else future.cache_entry.input_results()


def _result_for(get: InputResults | None, one: StandardFuture[Any]) -> Any:
    """Return the result of an input. A large one stays pickled (see `payload.pass_on`)."""
    result = None if get is None else get(one)
    if result is not None:
        return result[0]
    parts = one.pickled_result() if isinstance(one, Future) else None
    if parts is None or payload.is_loaded_to_pass_on(parts):
        return result_of(one)
    return payload.pass_on(parts)
