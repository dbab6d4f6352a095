"""Pickle calls, and hand them to the pool of workers.

    Sender.send ─► dump:     function_cache: may the function be sent once?
                             serialization:  arguments to bytes
                             large_payloads: share what many calls get
                             kept_parts:     copy what may change before it is sent
                ─► hand_over ─► pool

An engine has one sender, for the calls that users submit and for those that have to wait. A call that waits for others is
pickled when it is submitted, too, and gets their results later (`fill`): so it is what it was then. Most calls of a function
that was sent before need none of this: `Dispatcher.submit_small` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool._util.reprs import callable_name
from pympipool.errors import SerializationError
from pympipool.execution.function_cache import FrozenFunction, FunctionTable
from pympipool.execution.kept_parts import PartCopies, keep_small
from pympipool.execution.large_payloads import LARGE_BYTES, LargePayloads
from pympipool.serialization import payload
from pympipool.serialization.inputs import Filled
from pympipool.serialization.plain import CALL_SCALARS, Pickled, dump_plain
from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.execution.interfaces import Pool
    from pympipool.resources import Resources
    from pympipool.serialization.payload import BatchMarker

__all__ = ["Dumped", "Sender"]

Dumped: TypeAlias = "tuple[FunctionHandle | None, list[Any], list[Any] | None]"
"""A pickled call: the function, if that is sent only once; the parts of the call; and what must be kept until it has ended."""


class Sender:
    """Sends the calls of one engine.

    Args:
        dispatcher: Ends the futures of calls that cannot be pickled.
        pool: Runs the calls.
        workers_see_files: The workers run on this machine and see the same files.
        share_above: The size, in bytes, from which an array that many calls get is shared. None: none is.
    """

    def __init__(self, dispatcher: Dispatcher, pool: Pool, workers_see_files: bool, share_above: int | None) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._workers_see_files = workers_see_files
        self._functions = FunctionTable()
        self._copies = PartCopies()
        self.large_payloads = LargePayloads(share_above)
        if pool.keeps_functions:
            dispatcher.take_small_calls(self._functions.known, CALL_SCALARS, pool.restart_limit)

    def send(
        self,
        future: Future[Any],
        fn: Callable[..., Any] | FrozenFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | BatchMarker,
        resources: Resources | None,
        admitted: bool = False,
        parts: list[Any] | None = None,
    ) -> None:
        """Pickle a call and hand it to the pool. If it cannot be pickled, fail its future.

        Args:
            kwargs: Keyword arguments; `payload.BATCH` or `payload.TRACED_BATCH` for a batch.
            admitted: Accept the call also after `Engine.close`: the user requested it before.
            parts: The pickled arguments, if they are small. They are used if the function has a number.
        """
        try:
            waits = future.retry is not None or not self._pool.keeps_functions
            dumped = self.dump(future, fn, args, kwargs, parts, waits=waits)
        except (SerializationError, Warning) as error:  # the user may have warnings raised
            self._dispatcher.fail(future, without_frames(error))
            return
        self.hand_over(future, dumped, fn, args, kwargs, resources, admitted)

    def dump(
        self,
        future: Future[Any],
        fn: Callable[..., Any] | FrozenFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | BatchMarker,
        parts: list[Any] | None = None,
        *,
        waits: bool,
    ) -> Dumped:
        """Pickle a call. Otherwise as `send`.

        Args:
            waits: The call is not sent, or copied by the dispatcher, at once.

        Raises:
            SerializationError: It cannot be pickled.
            Warning: It sends large data again and again, and the user has warnings raised.
        """
        copies: list[Any] | None = None
        pickled: Any = fn
        files_by_name = self._workers_see_files and future.cache_entry is None  # the key is that of what they hold now
        if isinstance(fn, FrozenFunction):
            function, pickled, fn = fn.handle, fn.pickled, fn.function
        else:
            function, parts = self._find_function(fn, args, kwargs, parts, files_by_name)
        if function is None:
            future.function_name = callable_name(fn)
            parts = payload.dump_call(0, pickled, args, kwargs, files_by_name)
        else:
            future.function_name = function.name
            if parts is None:
                parts = payload.dump_call(function.number, fn, args, kwargs, files_by_name)
        if len(parts) > 1 or len(parts[0]) > LARGE_BYTES:
            parts, copies = self.large_payloads.share_or_warn(fn, args, kwargs, parts)
            if future.cache_entry is not None:
                parts = self._copies.keep(parts)
            elif waits:
                parts = keep_small(parts)
        return function, parts, copies

    def _find_function(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, parts: list[Any] | None, files_by_name: bool
    ) -> tuple[FunctionHandle | None, list[Any] | None]:
        """Return the function of a call if it is sent only once, and the parts of the call if they are known."""
        if not self._pool.keeps_functions:
            return None, None
        if type(fn) is MethodType:
            return self._dump_method_call(fn, args, kwargs, files_by_name)
        return self._functions.lookup(fn), parts

    def hand_over(
        self,
        future: Future[Any],
        dumped: Dumped,
        fn: Callable[..., Any] | FrozenFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | BatchMarker,
        resources: Resources | None,
        admitted: bool = False,
    ) -> None:
        """Hand a pickled call to the pool. Arguments as of `send`."""
        function, parts, copies = dumped
        if future.retry is not None:
            future.retry.call = function, parts
        future.keep((fn, copies) if copies else fn, args, kwargs)
        self._pool.submit(future, function, parts, resources, admitted)

    def fill(self, dumped: Dumped, fn: Callable[..., Any], results: list[Any]) -> Dumped:
        """Return a pickled call with the results of its inputs.

        Args:
            dumped: The call, with an `Input` in the place of each.
            results: The result for each number.

        Raises:
            SerializationError: One of them cannot be pickled.
            Warning: As of `dump`.
        """
        function, parts, copies = dumped
        inputs = payload.dump_inputs(fn, results)
        if len(inputs) > 1:
            inputs, more = self.large_payloads.share_or_warn(fn, tuple(results), {}, inputs)
            inputs, copies = keep_small(inputs), [*(copies or ()), *more]
        return function, dump_plain(Filled(inputs, parts)), copies

    def find(self, fn: Callable[..., Any]) -> FrozenFunction:
        """Return a function with its number, if it has one now."""
        return FrozenFunction(fn, self._functions.lookup(fn) if self._pool.keeps_functions else None, fn)

    def freeze(self, fn: Callable[..., Any], *, in_full: bool = False) -> Callable[..., Any] | FrozenFunction:
        """Return a function as it is now, for calls that are sent later; the function itself if it cannot be pickled.

        Args:
            in_full: Also its large data do not change any more.
        """
        if self._pool.keeps_functions:
            handle = self._functions.lookup(fn) or self._functions.lookup(fn)  # the first time it is only noted
            if handle is not None:
                return FrozenFunction(fn, handle, fn)
        try:
            parts = payload.dump_function(fn, self._workers_see_files and not in_full)
        except SerializationError:
            return fn
        return FrozenFunction(fn, None, Pickled(self._copies.keep(parts) if in_full else keep_small(parts)))

    def _dump_method_call(
        self, fn: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any] | BatchMarker, files_by_name: bool
    ) -> tuple[FunctionHandle | None, list[Any] | None]:
        """Pickle a call of a bound method as a call of its function, which is sent once, with the instance as an argument.

        Returns:
            None, None for a batch, or if the method's function or the instance cannot be sent like this.
        """
        if type(kwargs) is not dict or type(fn.__func__) is not FunctionType:
            return None, None
        function = self._functions.lookup(fn.__func__)
        if function is None:
            return None, None
        try:
            arguments = (fn.__self__, *args)
            return function, payload.dump_call(function.number, fn, arguments, kwargs, files_by_name)
        except SerializationError:  # pickling the whole call raises a better error
            return None, None
