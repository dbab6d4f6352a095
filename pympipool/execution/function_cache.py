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
from typing import Any

from pympipool._core.ring import FUNCTION_CACHE_SIZE
from pympipool._core.snapshot import Snapshot
from pympipool._util.reprs import callable_name
from pympipool.serialization.analysis import Analysis
from pympipool.serialization.by_value import dump_function

__all__ = ["FUNCTION_CACHE_SIZE", "Function", "FunctionTable"]


class Function:
    """A function that is sent once, with a snapshot of everything its pickle depends on.

    Attributes:
        number: Tells workers which function to call. Counts from 1 and is never reused.
        payload: The function's pickle.
        name: The function's name in messages.
        function: The function itself. Kept alive, so that no other object gets its id.
        is_current: Returns True if pickling the function would still give the payload. Runs at every call.
    """

    __slots__ = ("function", "is_current", "name", "number", "payload")

    def __init__(self, function: Any, snapshot: Snapshot, payload: bytes) -> None:
        self.number = 0
        self.payload = payload
        self.name = callable_name(function)
        self.function = function
        self.is_current = snapshot.is_current

    def __repr__(self) -> str:
        return f"<Function {self.number}: {self.name}, {len(self.payload)} bytes>"


class FunctionTable:
    """The functions of one executor that are sent once, at most `FUNCTION_CACHE_SIZE` at a time. Thread-safe.

    Examples:
        >>> table = FunctionTable()
        >>> [table.lookup(sum) for _ in range(3)]
        [None, <Function 1: sum, 31 bytes>, <Function 1: sum, 31 bytes>]
        >>> table.lookup([].append) is None
        True
    """

    def __init__(self) -> None:
        self._known: dict[int, Function] = {}  # by id(function)
        self._slots: list[Function | None] = [None] * FUNCTION_CACHE_SIZE
        self._seen: dict[int, weakref.ref[Any]] = {}  # functions that were called once, by id(function)
        self._refused: dict[int, weakref.ref[Any]] = {}  # by id(function)
        self._number = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may submit calls too

    def lookup(self, function: Callable[..., Any]) -> Function | None:
        """Return the function with its number, or None if it must be pickled with this call.

        A function that is seen for the first time gets no number. A function that changed, or that refers to something
        that changed, gets a new number. A refused function stays refused, which is never wrong.
        """
        known = self._known.get(id(function))
        if known is not None and known.is_current():
            return known
        if isinstance(function, (types.MethodType, functools.partial)) or _contains(self._refused, function):
            return None
        if known is None and not _contains(self._seen, function) and self._remember(self._seen, function):
            return None
        return self._analyze(function)

    def _analyze(self, function: Callable[..., Any]) -> Function | None:
        try:
            analysis = Analysis(function)
            found = Function(function, analysis.snapshot, dump_function(function, analysis.classes))
        except Exception:  # also if it cannot be pickled: pickling the call raises a better error
            self._refuse(function)
            return None
        if not found.is_current():  # another thread is redefining something right now
            return None
        self._add(found)
        return found

    def _add(self, found: Function) -> None:
        with self._lock:
            self._number += 1
            found.number = self._number
            slot = found.number % FUNCTION_CACHE_SIZE
            displaced = self._slots[slot]
            if displaced is not None and self._known.get(id(displaced.function)) is displaced:
                del self._known[id(displaced.function)]
            self._slots[slot] = found
            self._known[id(found.function)] = found

    def _refuse(self, function: Callable[..., Any]) -> None:
        """Remember that a function gets no number."""
        with self._lock:
            known = self._known.pop(id(function), None)
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
