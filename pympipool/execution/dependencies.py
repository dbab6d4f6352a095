"""Futures as arguments: a call waits for them, and gets their results in their place.

    submit ─► find_futures: none (nearly always) ─► the call goes on at once
                            some ─► when_all_done ─► all have results ─► resolve ─► the call goes on
                                                     one has failed  ─► the call fails with the same, at once
                                                     one is cancelled ─► the call is cancelled, at once

A future is looked for among the arguments and, to any depth, in lists, tuples (named ones too), sets, frozensets and
dicts (values and keys), `OrderedDict` and `defaultdict`. Not in other objects, dataclasses and subclasses of
containers among them: what these mean by their contents only they know. Any `concurrent.futures.Future` will do, of
whatever executor; asyncio's are another thing.

Nothing polls: the futures call back. A callback that ends a future calls the callbacks of the calls that wait for it,
and so on along a chain; `_Trampoline` turns this recursion into a loop, so that a chain may have any length.

A call whose input failed fails with a copy of the input's exception: `except` clauses written for the function that
raises it work for everything that is computed from it, as they would if the functions called each other. Its
`__cause__` is the original, which was raised first, however long the chain.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias, cast

from pympipool._core.sequences import all_of
from pympipool.errors import DependencyError

__all__ = ["find_futures", "resolve", "when_all_done"]

Callback: TypeAlias = "Callable[[BaseException | None, bool], object]"

_ATOMIC_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
"""Types in which there are no futures, most arguments among them."""

_MAPPINGS = (dict, OrderedDict, defaultdict)
_COLLECTIONS = (list, tuple, set, frozenset)
_LOOKED_INTO = (Future, list, tuple, set, frozenset, dict)


def find_futures(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Future[Any]]:
    """The futures among the arguments of a call, each once.

    Examples:
        >>> future = Future()
        >>> find_futures((1, [future]), {"x": {"y": future}}) == [future]
        True
        >>> find_futures((1, "two"), {})
        []
    """
    for value in args:
        if type(value) not in _ATOMIC_TYPES and isinstance(value, _LOOKED_INTO):
            return _FutureSearch([*args, *kwargs.values()]).futures
    if kwargs:
        for value in kwargs.values():
            if type(value) not in _ATOMIC_TYPES and isinstance(value, _LOOKED_INTO):
                return _FutureSearch([*args, *kwargs.values()]).futures
    return []


def resolve(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result_of: Callable[[Future[Any]], Any] = Future.result,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the results of their futures in place of these.

    Containers that hold a future, however deep, are copied; all others stay the same objects. One that appears
    several times, or contains itself, does so in what is returned.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        result_of: What to put in the place of a future, which is done.

    Raises:
        TypeError: A result takes the place of a key or of an item of a set, and cannot be hashed.

    Examples:
        >>> future = Future()
        >>> future.set_result(3)
        >>> resolve((1, [future]), {"x": {"y": future}})
        ((1, [3]), {'x': {'y': 3}})
    """
    search = _FutureSearch([*args, *kwargs.values()])
    replacement = _Replacement(search.holders(), result_of)
    return tuple(map(replacement.of, args)), {name: replacement.of(value) for name, value in kwargs.items()}


def when_all_done(futures: list[Future[Any]], callback: Callback) -> None:
    """Calls back, once, as soon as all futures have results or one of them never will.

    Args:
        futures: At least one.
        callback: Gets (None, False) when all have results; (exception, False) when one has failed, a copy of its
            exception with the original as `__cause__`; (None, True) when one was cancelled. It runs in the thread that
            ended the future, or in this one when nothing is left to wait for.
    """
    waiter = _Waiter(len(futures), callback)
    for future in futures:
        add = getattr(future, "_add_internal_callback", None) or future.add_done_callback  # our own go a shorter way
        add(waiter.on_done)


# ---- waiting ----


class _Waiter:
    """Waits for several futures."""

    def __init__(self, count: int, callback: Callback) -> None:
        self._left = count
        self._callback: Callback | None = callback
        self._lock = threading.Lock()

    def on_done(self, future: Future[Any]) -> None:
        cancelled = future.cancelled()
        error = None if cancelled else _exception_of(future)
        with self._lock:
            self._left -= 1
            callback = self._callback
            if callback is None or (self._left and not cancelled and error is None):
                return
            self._callback = None  # called once; the futures still to come keep nothing of the call alive
        _relay.call(callback, None if error is None else _copy_with_cause(error), cancelled)


def _exception_of(future: Future[Any]) -> BaseException | None:
    if getattr(future, "has_result", False):
        return None  # ours know that without unpickling it
    try:
        return future.exception()
    except Exception as error:  # a future of another kind, which may do as it likes
        return error


class _Trampoline(threading.local):
    """Runs callbacks one after the other: one that is asked for inside another waits until that has returned."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callback, BaseException | None, bool]] = deque()
        self._is_running = False

    def call(self, callback: Callback, error: BaseException | None, cancelled: bool) -> None:
        self._waiting.append((callback, error, cancelled))
        if self._is_running:
            return
        self._is_running = True
        try:
            self._run()
        finally:
            self._is_running = False

    def _run(self) -> None:
        interrupt: BaseException | None = None
        while self._waiting:
            callback, error, cancelled = self._waiting.popleft()
            try:
                callback(error, cancelled)
            except Exception:  # as the standard library treats callbacks of futures; the others must run
                logging.getLogger("concurrent.futures").exception("a call that waits for others could not go on")
            except BaseException as stop:  # Ctrl-C: after the others, which would wait for ever
                interrupt = stop
            del callback, error
        if interrupt is not None:
            raise interrupt


_relay = _Trampoline()

_REPEATED = "_pympipool_repeated"
"""Attribute of exceptions that are copies made here."""


def _copy_with_cause(error: BaseException) -> BaseException:
    """A copy of an input's exception, whose `__cause__` is the exception that was raised first."""
    origin = error
    if getattr(error, _REPEATED, False) and error.__cause__ is not None:
        origin = error.__cause__
    try:
        twin = _clone_exception(origin)
        if type(twin) is not type(origin) or str(twin) != str(origin):
            raise TypeError("the copy is another one")
        notes = [*getattr(origin, "__notes__", [])]
    except Exception:  # it has an __init__ of its own kind, or holds what cannot be copied
        twin, notes = DependencyError(f"an input of the call failed: {type(origin).__name__}"), []
    twin.__dict__[_REPEATED] = True
    twin.__dict__["__notes__"] = [*notes, "This is the error of an input; the call itself did not run."]
    twin.__cause__ = origin
    return twin


def _clone_exception(error: BaseException) -> BaseException:
    """A copy, made as the exception's class says.

    `copy` would ask `copyreg`, where tblib, and with it dask, has put reducers for all exceptions: their copies share
    their attributes with the original.
    """
    kind, args, *state = cast("tuple[Any, ...]", error.__reduce_ex__(2))
    twin: BaseException = kind(*args)
    if state:
        twin.__setstate__(*state)
    return twin


# ---- finding and replacing ----


def _is_container(value: object) -> bool:
    kind = type(value)
    return kind in _COLLECTIONS or kind in _MAPPINGS or (isinstance(value, tuple) and hasattr(kind, "_make"))


class _FutureSearch:
    """All futures and containers within some values. Goes by loops, so that depth and circles do no harm."""

    def __init__(self, values: list[Any]) -> None:
        self.futures: list[Future[Any]] = []
        self._seen: dict[int, Any] = {}  # containers and futures by id; keeps them alive, so that ids stay their own
        self._parents: dict[int, list[int]] = {}  # of a container or future: the containers that hold it
        self._waiting: list[Any] = []
        for value in values:
            self._add(value, 0)
        while self._waiting:
            self._look_into(self._waiting.pop())

    def _look_into(self, container: Any) -> None:
        self._look_through(container, id(container))
        if type(container) in _MAPPINGS:
            self._look_through(container.values(), id(container))

    def _look_through(self, values: Collection[Any], parent: int) -> None:
        if all_of(values, _ATOMIC_TYPES):
            return
        for value in values:
            if type(value) not in _ATOMIC_TYPES:
                self._add(value, parent)

    def _add(self, value: Any, parent: int) -> None:
        is_future = isinstance(value, Future)
        if not is_future and not _is_container(value):
            return
        self._parents.setdefault(id(value), []).append(parent)
        if id(value) not in self._seen:
            self._seen[id(value)] = value
            (self.futures if is_future else self._waiting).append(value)

    def holders(self) -> set[int]:
        """Ids of the futures, and of the containers from which one can be reached."""
        reached: set[int] = set()
        waiting = [id(future) for future in self.futures]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += self._parents.get(one, ())
        return reached


class _Replacement:
    """Rebuilds the containers that hold futures. Same object in, same object out."""

    def __init__(self, holders: set[int], result_of: Callable[[Future[Any]], Any]) -> None:
        self._holders = holders
        self._result_of = result_of
        self._done: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        key = id(value)
        if key not in self._holders:
            return value
        if key not in self._done:
            self._replace(key, value)
        return self._done[key]

    def _replace(self, key: int, value: Any) -> None:
        if isinstance(value, Future):
            self._done[key] = self._result_of(value)
            return
        if isinstance(value, (tuple, frozenset)):
            items = [self.of(item) for item in value]
            if key not in self._done:  # else it was reached again, and replaced, through a list that holds it
                self._done[key] = type(value)._make(items) if hasattr(value, "_make") else type(value)(items)
            return
        # What can change may contain itself, so its copy is known before it is filled.
        self._done[key] = empty = copy.copy(value)
        empty.clear()
        if isinstance(value, dict):
            empty.update((self.of(name), self.of(item)) for name, item in value.items())
        elif isinstance(value, set):
            empty.update(map(self.of, value))
        else:
            empty.extend(map(self.of, value))
