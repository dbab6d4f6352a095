"""Pickle calls, and hand them to the pool of workers.

    Sender.send ─► function_cache: may the function be sent once?
                ─► serialization:  arguments to bytes
                ─► large_payloads: share what many calls get
                ─► pool

An engine has one sender, for the calls that users submit and for those that had to wait. Most calls of a function that it has sent
need none of this: `Dispatcher.submit_small` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from pympipool._util.reprs import callable_name
from pympipool.errors import SerializationError
from pympipool.execution.function_cache import FunctionTable
from pympipool.execution.large_payloads import LARGE_BYTES, LargePayloads
from pympipool.serialization import payload
from pympipool.serialization.plain import CALL_SCALARS
from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.execution.interfaces import Pool
    from pympipool.resources import Resources
    from pympipool.serialization.payload import BatchMarker

__all__ = ["Sender"]


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
        self.large_payloads = LargePayloads(share_above)
        if pool.keeps_functions:
            dispatcher.take_small_calls(self._functions.known, CALL_SCALARS, pool.restart_limit)

    def send(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
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
            function = copies = None
            if type(fn) is MethodType:
                if self._pool.keeps_functions:
                    function, parts = self._dump_method_call(fn, args, kwargs)
            elif self._pool.keeps_functions:
                function = self._functions.lookup(fn)
            if function is None:
                future.function_name = callable_name(fn)
                parts = payload.dump_call(0, fn, args, kwargs, self._workers_see_files)
            else:
                future.function_name = function.name
                if parts is None:
                    parts = payload.dump_call(function.number, fn, args, kwargs, self._workers_see_files)
            if len(parts) > 1 or len(parts[0]) > LARGE_BYTES:
                parts, copies = self.large_payloads.share_or_warn(fn, args, kwargs, parts)
        except (SerializationError, Warning) as error:  # the user may have warnings raised
            self._dispatcher.fail(future, without_frames(error))
            return
        if future.retry is not None:
            future.retry.call = function, parts
        future.keep((fn, copies) if copies else fn, args, kwargs)
        self._pool.submit(future, function, parts, resources, admitted)

    def _dump_method_call(
        self, fn: MethodType, args: tuple[Any, ...], kwargs: dict[str, Any] | BatchMarker
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
            return function, payload.dump_call(function.number, fn, arguments, kwargs, self._workers_see_files)
        except SerializationError:  # pickling the whole call raises a better error
            return None, None
