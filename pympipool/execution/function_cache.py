"""Send a function to a worker once, and refer to it by a number afterwards.

Pickling a function by value takes longer than most small calls, and a worker that has it need not get it again. But a
function is more than its code: notebooks redefine functions, and the numbers that functions refer to, and the function
that runs must be the one that fresh pickling would send. So a function gets a number, and is sent once, only if
everything its pickle depends on can be compared with a snapshot, by identity, in a fraction of a microsecond at every
call:

    FunctionTable.lookup(function)
      known, and everything it refers to is still the same object ─► its number
      seen for the first time ─► None: many lambdas are called only once
      else Analysis (serialization/analysis.py): what does it refer to?
        only what cannot change unseen ─► snapshot, pickle, next number
        anything else ─► None

A function without a number is pickled with each call, which is always right.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pympipool._core.calls import FunctionHandle
from pympipool._core.ring import FUNCTION_CACHE_SIZE
from pympipool._util.reprs import callable_name
from pympipool.serialization.analysis import Analysis
from pympipool.serialization.by_value import dump_function

if TYPE_CHECKING:
    from pympipool._core.snapshot import Snapshot
    from pympipool.serialization.plain import Pickled

__all__ = ["FUNCTION_CACHE_SIZE", "FrozenFunction", "FunctionTable"]


class FrozenFunction:
    """A function as it was when it was submitted, for calls that are sent later.

    Attributes:
        function: The function, which may have changed.
        handle: The function as it is sent once; None if it has no number.
        pickled: What is pickled with each call, without a number.
    """

    __slots__ = ("function", "handle", "pickled")

    def __init__(
        self, function: Callable[..., Any], handle: FunctionHandle | None, pickled: Pickled | Callable[..., Any]
    ) -> None:
        self.function = function
        self.handle = handle
        self.pickled = pickled


class FunctionTable:
    """The functions of one executor that are sent once, at most `FUNCTION_CACHE_SIZE` at a time. Thread-safe.

    Attributes:
        known: These functions, by their id. Always the same dict.

    Examples:
        >>> table = FunctionTable()
        >>> [table.lookup(sum) for _ in range(3)]
        [None, <FunctionHandle 1: sum, 31 bytes>, <FunctionHandle 1: sum, 31 bytes>]
        >>> table.lookup([].append) is None
        True
    """

    def __init__(self) -> None:
        self.known: dict[int, FunctionHandle] = {}  # by id(function)
        self._slots: list[FunctionHandle | None] = [None] * FUNCTION_CACHE_SIZE
        self._seen: dict[int, weakref.ref[Any]] = {}  # functions that were called once, by id(function)
        self._refused: dict[int, weakref.ref[Any]] = {}  # by id(function)
        self._number = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may submit calls too

    def lookup(self, function: Callable[..., Any]) -> FunctionHandle | None:
        """Return the function with its number, or None if it must be pickled with this call.

        A function that is seen for the first time gets no number. A function that changed, or that refers to something
        that changed, gets a new number. A refused function stays refused, which is never wrong.
        """
        known = self.known.get(id(function))
        if known is not None and known.is_current():
            return known
        if isinstance(function, (types.MethodType, functools.partial)) or _contains(self._refused, function):
            return None
        if known is None and not _contains(self._seen, function) and self._remember(self._seen, function):
            return None
        return self._analyze(function)

    def _analyze(self, function: Callable[..., Any]) -> FunctionHandle | None:
        try:
            analysis = Analysis(function)
            payload = dump_function(function, analysis.classes)
        except Exception:  # also if it cannot be pickled: pickling the call raises a better error
            self._refuse(function)
            return None
        if not analysis.snapshot.is_current():  # another thread is redefining something right now
            return None
        return self._add(function, analysis.snapshot, payload)

    def _add(self, function: Callable[..., Any], snapshot: Snapshot, payload: bytes) -> FunctionHandle:
        """Give a function the next number.

        Args:
            snapshot: Everything its pickle depends on.
            payload: Its pickle.
        """
        with self._lock:
            self._number += 1
            found = FunctionHandle(self._number, payload, function, snapshot, callable_name(function))
            slot = found.number % FUNCTION_CACHE_SIZE
            displaced = self._slots[slot]
            if displaced is not None and self.known.get(id(displaced.callable)) is displaced:
                del self.known[id(displaced.callable)]
            self._slots[slot] = found
            self.known[id(function)] = found
        return found

    def _refuse(self, function: Callable[..., Any]) -> None:
        """Remember that a function gets no number."""
        with self._lock:
            known = self.known.pop(id(function), None)
            if known is not None:
                self._slots[known.number % FUNCTION_CACHE_SIZE] = None
        self._remember(self._refused, function)

    def _remember(self, functions: dict[int, weakref.ref[Any]], function: Callable[..., Any]) -> bool:
        """Remember a function without keeping it, or the data in its closure, alive.

        Returns:
            False if the function does not support weak references.
        """
        try:
            reference = weakref.ref(function)
        except TypeError:
            return False
        with self._lock:
            if len(functions) >= FUNCTION_CACHE_SIZE:
                functions.clear()
            functions[id(function)] = reference
        return True


def _contains(functions: dict[int, weakref.ref[Any]], function: Callable[..., Any]) -> bool:
    """Return True if the dict refers to this very function, not to a former one at the same address."""
    reference = functions.get(id(function))
    return reference is not None and reference() is function
