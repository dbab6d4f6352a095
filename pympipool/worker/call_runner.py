"""The functions that calls refer to, and how a call is run.

A function travels once, under a number; master and worker agree without a word that number n lies in slot n modulo
`FUNCTION_CACHE_SIZE`, and forget what was there before.
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
    """What is needed to run calls.

    Args:
        preset: Parameters that every function gets which knows them and was not given them: from init_function.
        stamps: Where the single calls of a traced batch put down when they ended; told with its answer.
        error_log: Where calls that fail are written down; None: nowhere.
    """

    __slots__ = ("_error_log", "_functions", "_preset", "_stamps")

    def __init__(
        self, preset: Mapping[str, Any], stamps: list[int] | None = None, error_log: ErrorLog | None = None
    ) -> None:
        self._preset = preset
        self._stamps = stamps
        self._error_log = error_log
        self._functions: list[tuple[int, Callable[..., Any]]] = [(0, _nothing)] * FUNCTION_CACHE_SIZE

    def remember(self, number: int, parts: Sequence[Any]) -> None:
        """Keeps a function for the calls that refer to it. If it cannot be unpickled, these will fail with that."""
        try:
            function = self._prepared(load(parts, "the function"))
        except Exception as error:
            function = _failing(error)
        self._functions[number % FUNCTION_CACHE_SIZE] = number, function

    def _prepared(self, function: Callable[..., Any]) -> Callable[..., Any]:
        prepared = inject_arguments(function, self._preset)
        return prepared if self._error_log is None else self._error_log.watching(prepared, callable_name(function))

    def run(self, number: int, parts: list[Any]) -> Any:
        """Runs a call; raises what it raises. Empties parts before, so that its arguments are nobody else's.

        In a batch `BATCH` or `TRACED_BATCH` takes the place of the keyword arguments, and the positional ones are columns.
        """
        if number == 0:
            function, args, kwargs = load(parts, "the call")
            function = self._prepared(function)
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


def _nothing() -> None:
    """Fills slots that hold no function yet."""


def _failing(error: Exception) -> Callable[..., NoReturn]:
    """A function that raises error whatever it is called with."""
    traceback = error.__traceback__

    def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise error.with_traceback(traceback)  # or each raise would lengthen it

    return fail
