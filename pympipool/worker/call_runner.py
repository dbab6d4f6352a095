"""Runs calls, and keeps the functions that calls refer to.

A function travels once, together with a number; later calls carry only the number. Master and worker both keep function
number n in slot n modulo `FUNCTION_CACHE_SIZE`, and drop the function that was there before. So they agree about what
the worker has without exchanging messages about it.
"""

from __future__ import annotations

from pympipool._core.ring import FUNCTION_CACHE_SIZE
from pympipool._util.reprs import callable_name
from pympipool.serialization.payload import BATCH, TRACED_BATCH, load
from pympipool.worker.batches import run_each
from pympipool.worker.injection import inject_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from pympipool.worker.error_log import ErrorLog


class CallRunner:
    """Runs the calls of one rank.

    Args:
        init_values: The result of init_function: arguments for all functions that have parameters of these names.
        stamps: Gets the times at which the calls of a traced batch ended; they are sent with the answer.
        error_log: Where failed calls are logged; None: nowhere.
    """

    __slots__ = ("_error_log", "_functions", "_init_values", "_stamps")

    def __init__(
        self, init_values: Mapping[str, Any], stamps: list[int] | None = None, error_log: ErrorLog | None = None
    ) -> None:
        self._init_values = init_values
        self._stamps = stamps
        self._error_log = error_log
        self._functions: list[tuple[int, Callable[..., Any]]] = [(0, _empty_slot)] * FUNCTION_CACHE_SIZE

    def remember(self, number: int, parts: Sequence[Any]) -> None:
        """Keep a function for the calls that refer to it. If it cannot be unpickled, these calls fail with that error."""
        try:
            function = self._wrap(load(parts, "the function"))
        except Exception as error:
            function = _raising(error)
        self._functions[number % FUNCTION_CACHE_SIZE] = number, function

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = inject_arguments(function, self._init_values)
        return wrapped if self._error_log is None else self._error_log.wrap(wrapped, callable_name(function))

    def run(self, number: int, parts: list[Any]) -> Any:
        """Run a call; raise what it raises.

        Empties parts before the function runs, so that only the function refers to its arguments. In a batch, `BATCH` or
        `TRACED_BATCH` takes the place of the keyword arguments, and the positional ones are columns.
        """
        if number == 0:
            function, args, kwargs = load(parts, "the call")
            function = self._wrap(function)
        else:
            args, kwargs = load(parts, "the arguments")
            known, function = self._functions[number % FUNCTION_CACHE_SIZE]
            if known != number:
                raise RuntimeError(
                    f"a call refers to function {number}, but that slot holds {known}: a bug in pympipool"
                )
        parts.clear()
        if kwargs:
            return function(*args, **kwargs)
        if kwargs is BATCH:
            return run_each(function, args)
        if kwargs is TRACED_BATCH:
            return run_each(function, args, self._stamps)
        return function(*args)


def _empty_slot() -> None:
    """Fill a slot that holds no function yet."""


def _raising(error: Exception) -> Callable[..., NoReturn]:
    """Return a function that raises error whatever its arguments are."""
    traceback = error.__traceback__

    def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise error.with_traceback(traceback)  # else each raise would lengthen the traceback

    return fail
