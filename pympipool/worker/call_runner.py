"""Runs calls, and keeps the functions that calls refer to.

A function travels once, together with a number; later calls carry only the number. Master and worker both keep function
number n in slot n modulo `FUNCTION_CACHE_SIZE`, and drop the function that was there before. So they agree about what
the worker has without exchanging messages about it. It is unpickled in the first call that refers to it: if that ends the process,
or never returns, it does so in a call, which is known to have begun, and to which the failure belongs.

A function is compared with a snapshot before each call, and unpickled again if it is no longer what was sent: a call has reloaded
its module, has left something in its globals, or has changed a class of the script that it refers to. So each call finds its
function as if it had just been sent.

pickle and multiprocessing store functions of the script by name. So during a call `__main__` has the functions that came with the
function and the arguments of the call, and no others.
"""

from __future__ import annotations

import sys
from _functools import _lru_cache_wrapper  # type: ignore[import-not-found]  # typeshed has no stub of it

from pympipool import serialization
from pympipool._core.ring import FUNCTION_CACHE_SIZE
from pympipool._core.snapshot import Snapshot
from pympipool._core.worker_calls import FunctionSlots, KeptFunction
from pympipool._util.reprs import callable_name
from pympipool.serialization import CLASSES_MARK, WORKER_MARK, empty_cache
from pympipool.serialization.payload import BATCH, TRACED_BATCH, load
from pympipool.worker.call_forks import CallForks
from pympipool.worker.injection import inject_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from pympipool.worker.batches import Batch
    from pympipool.worker.error_log import ErrorLog


_NO_SCRIPT: dict[str, Any] = {}
_NOT_LOADED: dict[str, Any] = {}
"""Takes the place of a function's script until the function is unpickled."""


class Kept(KeptFunction):
    """A function that calls refer to, with its pickle."""

    __slots__ = ()

    def __init__(self, number: int, function: Callable[..., Any], pickled: bytes = b"") -> None:
        self.number = number
        self.function = function
        self.script = _NO_SCRIPT
        self.is_current = _never
        self.pickled = pickled
        self.has_classes = CLASSES_MARK in pickled


class CallRunner(FunctionSlots):
    """Runs the calls of one rank.

    Args:
        init_values: The result of init_function: arguments for all functions that have parameters of these names.
        worker_id: The worker's id, for functions that ask for it.
        stamps: Gets the times at which the calls of a traced batch ended; they are sent with the answer.
        error_log: Where failed calls are logged; None: nowhere.
        forks: Ends processes that calls fork when they come back; None: nothing does.

    Attributes:
        on_loaded: Called in a call when its function was unpickled for the first time. How long that took says nothing about
            the run time of other calls.
    """

    __slots__ = (
        "_error_log",
        "_init_values",
        "_run_each",
        "_stamps",
        "_worker_id",
        "forks",
        "on_loaded",
    )

    def __init__(
        self,
        init_values: Mapping[str, Any],
        stamps: list[int] | None = None,
        error_log: ErrorLog | None = None,
        worker_id: int = 0,
        forks: CallForks | None = None,
    ) -> None:
        self.forks = forks or CallForks()
        self.on_loaded: Callable[[], None] = _empty_slot
        self._init_values = init_values
        self._worker_id = worker_id
        self._stamps = stamps
        self._error_log = error_log
        self.functions = [Kept(0, _empty_slot)] * FUNCTION_CACHE_SIZE
        self._run_each: Callable[..., Batch] | None = None
        _, self.arrived, _ = sys.modules["__main__"].__dict__.get(WORKER_MARK, (None, {}, None))
        self.script = None
        serialization.release_functions = self._leave_script  # a function of the last call refers to what the call got

    def remember(self, number: int, parts: Sequence[Any]) -> None:
        """Keep a function for the calls that refer to it. The first of them unpickles it.

        If it cannot be unpickled, each of these calls tries again, and fails with the error of its own attempt: a module
        that is missing may appear on the file system of this host later.
        """
        kept = self.functions[number % FUNCTION_CACHE_SIZE] = Kept(number, _empty_slot, bytes(parts[0]))
        kept.script = _NOT_LOADED

    def _unpickle(self, number: int, pickled: bytes) -> Kept:
        kept = self.functions[number % FUNCTION_CACHE_SIZE] = Kept(number, _empty_slot, pickled)
        try:
            function = load([pickled], "the function")
            kept.script = {name: value for name, value in self.arrived.items() if name} or _NO_SCRIPT
            kept.is_current = _snapshot_of(function, kept.has_classes)
            kept.function = self._wrap(function)
        except Exception as error:
            kept.function, kept.is_current = _raising(error), _never
        return kept

    def restore(self, kept: Kept) -> Kept:
        """Unpickle a function again that is no longer what was sent, or could not be unpickled."""
        importlib = sys.modules.get("importlib")
        if importlib is not None and kept.is_current is _never:
            importlib.invalidate_caches()  # a module may have appeared in a folder that was searched a moment ago
        self.script = None
        return self._unpickle(kept.number, kept.pickled)

    def _enter_script(self, kept: Kept) -> Kept:
        """Have `__main__` contain the functions of the script that came with a function, and no others."""
        self._leave_script()
        if kept.script is _NOT_LOADED:
            kept = self._unpickle(kept.number, kept.pickled)
            self._leave_script()
            self.on_loaded()
        script = kept.script
        sys.modules["__main__"].__dict__.update(script)
        self.arrived.update(script)
        self.script = script
        return kept

    def _leave_script(self) -> None:
        names = sys.modules["__main__"].__dict__
        for name, function in self.arrived.items():
            if names.get(name, self) is function:
                del names[name]
        self.arrived.clear()
        self.script = None

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if type(function) is _Builtin and function in _FRAME_READERS:
            function = _called_here(function)
        wrapped = inject_arguments(function, self._init_values, self._worker_id)
        return wrapped if self._error_log is None else self._error_log.wrap(wrapped, callable_name(function))

    def run(self, number: int, parts: list[Any]) -> Any:
        """Run a call; raise what it raises.

        Empties parts before the function runs, so that only the function refers to its arguments. In a batch, `BATCH` or
        `TRACED_BATCH` takes the place of the keyword arguments, and the positional ones are columns.
        """
        try:
            if number == 0:
                self._leave_script()
                function, args, kwargs = load(parts, "the call")
                function = self._wrap(function)
                kept = None
            else:
                kept = self.functions[number % FUNCTION_CACHE_SIZE]
                if kept.script is not self.script or len(self.arrived) != len(kept.script):
                    kept = self._enter_script(kept)
                args, kwargs = load(parts, "the arguments")
                if kept.number != number:
                    raise RuntimeError(
                        f"a call refers to function {number}, but that slot holds {kept.number}: a bug in pympipool"
                    )
                if not kept.is_current():
                    kept = self.restore(kept)
                function = kept.function
            parts.clear()
            if self.forks.is_fork:  # what was unpickled has forked
                self.forks.end_fork()
            if kwargs:
                return function(*args, **kwargs)
            if kwargs is BATCH or kwargs is TRACED_BATCH:
                return self._run_batch(function, kept, args, is_traced=kwargs is TRACED_BATCH)
            return function(*args)
        finally:
            if self.forks.is_fork:
                self.forks.end_fork()

    def _run_batch(self, function: Callable[..., Any], kept: Kept | None, columns: Any, *, is_traced: bool) -> Batch:
        if self._run_each is None:
            from pympipool.worker.batches import run_each  # not every worker gets batches

            self._run_each = run_each
        if kept is not None and kept.has_classes:
            function = self._checked(kept)
        return self._run_each(function, columns, self._stamps if is_traced else None, self.forks)

    def _checked(self, kept: Kept) -> Callable[..., Any]:
        """Return a function that compares the kept one with what was sent at each call."""
        function = kept.function

        def call(*args: Any) -> Any:
            nonlocal kept, function
            if not kept.is_current():
                kept = self.restore(kept)
                self.forks.end_fork()
                function = kept.function
            return function(*args)

        call.__qualname__ = getattr(function, "__qualname__", call.__qualname__)
        return call


def _snapshot_of(function: Any, has_classes: bool) -> Callable[[], bool]:
    """Return a function that returns True as long as a function is what was sent."""
    if has_classes:
        from pympipool.serialization.classes import snapshot_of

        snapshot = snapshot_of(function)
        return _never_current if snapshot is None else snapshot.is_current
    snapshot = Snapshot()
    _add(snapshot, function, set())
    return snapshot.is_current


def _add(snapshot: Snapshot, value: Any, seen: set[int]) -> None:
    """Add a function or class to a snapshot: where its module has it, or its globals and what they refer to."""
    if not isinstance(value, _BY_NAME) or id(value) in seen:
        return
    seen.add(id(value))
    module, name = value.__module__, value.__qualname__
    names = getattr(sys.modules.get(module), "__dict__", None) if type(module) is str else None
    if module != "__main__" and type(names) is dict and names.get(name) is value:
        snapshot.add_name(names, name, value)
    elif type(value) is _lru_cache_wrapper:
        snapshot.add_check(lambda: empty_cache(value))
        snapshot.add_dict(vars(value), dict(vars(value)))
        _add(snapshot, vars(value).get("__wrapped__"), seen)
    elif type(value) is _Function:
        snapshot.add_function(value)
        namespace = value.__globals__
        if id(namespace) not in seen:
            seen.add(id(namespace))
            snapshot.add_dict(namespace, dict(namespace))
            for other in list(namespace.values()):
                _add(snapshot, other, seen)


_Function: Any = type(lambda: None)
_Builtin: Any = type(len)
_BY_NAME: Any = (_Function, _lru_cache_wrapper, _Builtin, type)
"""Types of what is pickled by its name, if a module has it under this name."""


_FRAME_READERS: Any = (eval, exec, globals, locals, vars, dir)
"""Builtin functions that work with the names of the function that calls them."""


def _called_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a builtin one: from this module, be the call served here or in C."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__qualname__ = function.__qualname__
    return call


def _never() -> bool:
    return False


def _never_current() -> bool:
    return False


def _empty_slot() -> None:
    """Fill a slot that holds no function yet."""


def _raising(error: Exception) -> Callable[..., NoReturn]:
    """Return a function that raises error whatever its arguments are."""
    traceback = error.__traceback__

    def fail(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise error.with_traceback(traceback)  # else each raise would lengthen the traceback

    return fail
