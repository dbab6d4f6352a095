"""Runs calls, and keeps the functions that calls refer to.

A function travels once, together with a number; later calls carry only the number. Master and worker both keep function
number n in slot n modulo `FUNCTION_CACHE_SIZE`, and drop the function that was there before. So they agree about what
the worker has without exchanging messages about it.

A function may refer to classes of the script, and calls may change them. Then the function is compared with a snapshot before
each call, and unpickled again if it, or a class, is no longer what was sent: each call finds them as the master has them.

pickle and multiprocessing store functions of the script by name. So before a call `__main__` gets the functions that came with
the function of the call.
"""

from __future__ import annotations

import sys

from pympipool._core.ring import FUNCTION_CACHE_SIZE
from pympipool._util.reprs import callable_name
from pympipool.serialization import CLASSES_MARK
from pympipool.serialization.payload import BATCH, TRACED_BATCH, load
from pympipool.worker.injection import inject_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn, TypeAlias

    from pympipool.worker.error_log import ErrorLog

    Slot: TypeAlias = "tuple[int, Callable[..., Any], dict[str, Any] | None, Origin | None]"
    """The number of a function, the function, the functions of the script that came with it, and its origin."""

    Origin: TypeAlias = "tuple[Callable[[], bool], bytes]"
    """For a function that refers to classes: a function that returns True if nothing has changed them, and its pickle."""


class CallRunner:
    """Runs the calls of one rank.

    Args:
        init_values: The result of init_function: arguments for all functions that have parameters of these names.
        stamps: Gets the times at which the calls of a traced batch ended; they are sent with the answer.
        error_log: Where failed calls are logged; None: nowhere.
    """

    __slots__ = ("_error_log", "_functions", "_init_values", "_script", "_stamps")

    def __init__(
        self, init_values: Mapping[str, Any], stamps: list[int] | None = None, error_log: ErrorLog | None = None
    ) -> None:
        self._init_values = init_values
        self._stamps = stamps
        self._error_log = error_log
        self._functions: list[Slot] = [(0, _empty_slot, None, None)] * FUNCTION_CACHE_SIZE
        self._script: dict[str, Any] | None = None  # the functions of the script that `__main__` has got

    def remember(self, number: int, parts: Sequence[Any]) -> None:
        """Keep a function for the calls that refer to it.

        If it cannot be unpickled, each of these calls tries again, and fails with the error of its own attempt: a module
        that is missing may appear on the file system of this host later.
        """
        script: dict[str, Any] | None = None
        origin: Origin | None = None
        names = sys.modules["__main__"].__dict__
        before = names.copy()
        try:
            function = load(parts, "the function")
            script = {name: value for name, value in names.items() if before.get(name) is not value} or None
            if CLASSES_MARK in bytes(parts[0]):
                origin = _origin_of(function, bytes(parts[0]))
            function = self._wrap(function)
        except Exception as error:
            function = _raising(error)
            origin = _never, bytes(parts[0])
        self._functions[number % FUNCTION_CACHE_SIZE] = number, function, script, origin
        self._script = None

    def _restore(self, number: int, pickled: bytes) -> Callable[..., Any]:
        """Unpickle a function again after it, or a class that it refers to, was changed, or if it could not be unpickled."""
        importlib = sys.modules.get("importlib")
        if importlib is not None:  # a module may have appeared in a folder that was searched a moment ago
            importlib.invalidate_caches()
        self.remember(number, [pickled])
        return self._functions[number % FUNCTION_CACHE_SIZE][1]

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = inject_arguments(function, self._init_values)
        return wrapped if self._error_log is None else self._error_log.wrap(wrapped, callable_name(function))

    def run(self, number: int, parts: list[Any]) -> Any:
        """Run a call; raise what it raises.

        Empties parts before the function runs, so that only the function refers to its arguments. In a batch, `BATCH` or
        `TRACED_BATCH` takes the place of the keyword arguments, and the positional ones are columns.
        """
        if number == 0:
            self._script = None
            function, args, kwargs = load(parts, "the call")
            function = self._wrap(function)
        else:
            args, kwargs = load(parts, "the arguments")
            known, function, script, origin = self._functions[number % FUNCTION_CACHE_SIZE]
            if known != number:
                raise RuntimeError(
                    f"a call refers to function {number}, but that slot holds {known}: a bug in pympipool"
                )
            if origin is not None and not origin[0]():
                function = self._restore(number, origin[1])
            elif script is not self._script:
                self._script = script
                sys.modules["__main__"].__dict__.update(script or {})
        parts.clear()
        if kwargs:
            return function(*args, **kwargs)
        if kwargs is BATCH or kwargs is TRACED_BATCH:
            from pympipool.worker.batches import run_each  # not every worker gets batches

            return run_each(function, args, self._stamps if kwargs is TRACED_BATCH else None)
        return function(*args)


def _origin_of(function: Callable[..., Any], pickled: bytes) -> Origin:
    from pympipool.serialization.classes import snapshot_of

    snapshot = snapshot_of(function)
    return _never if snapshot is None else snapshot.is_current, pickled


def _never() -> bool:
    return False


def _empty_slot() -> None:
    """Fill a slot that holds no function yet."""


def _raising(error: Exception) -> Callable[..., NoReturn]:
    """Return a function that raises error whatever its arguments are."""
    traceback = error.__traceback__

    def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise error.with_traceback(traceback)  # else each raise would lengthen the traceback

    return fail
