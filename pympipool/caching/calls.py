"""Calls before they reach an engine: those that were made before are answered from disk.

    submit ─► key ─► store ─┬─ found ─────► a future that is done; nothing runs
                            └─ not found ─► the engine ─► a call, whose result the writer stores when it has ended

A call that is not cached, because it has no key or the user says so, goes to the engine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pympipool._util.reprs import callable_name, safe_repr
from pympipool._util.user_warnings import warn_user
from pympipool.caching.entries import UnwrittenEntry, returned_values, stored_future
from pympipool.caching.exceptions import raised
from pympipool.caching.inputs import UNKNOWN, LastLoaded, is_changed
from pympipool.caching.keys import Keys, is_plain, key_of_name
from pympipool.caching.maps import Answers
from pympipool.caching.modules import version_now
from pympipool.caching.scopes import Seen
from pympipool.caching.store import Store
from pympipool.caching.values import KeylessFutureError, UnhashableError
from pympipool.caching.writer import Writer
from pympipool.errors import CacheWarning, SerializationError
from pympipool.serialization import payload
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.future_search import find_futures, resolve

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.caching.entries import Entry
    from pympipool.caching.handover import Handover
    from pympipool.caching.interfaces import CallEngine
    from pympipool.resources import Resources

T = TypeVar("T")

__all__ = ["CacheCounts", "CachedCalls"]

SHOWN_ITEMS_MAX = 4
"""Arrays of at most so many numbers are shown in full among the arguments of a call."""

SHORT_LENGTH = 80
"""Longest text for an argument."""


@dataclass
class CacheCounts:
    """How many calls a cache was asked for: those that it has answered, and the others."""

    found: int = 0
    missing: int = 0


class CachedCalls:
    """The calls of one executor that are cached.

    Args:
        directory: The cache directory.
        engine: Runs the calls that are not found.
        owner: The executor. When Python collects it, the cache is closed after the last call.
        start: What runs in each worker before its first call: functions and their arguments.
        handover: Where workers may leave large results.

    Raises:
        OSError: The directory cannot be made or read; another user can write to it.
        ValueError: It has results of another version of pympipool.

    Attributes:
        counts: How many calls were answered.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        engine: CallEngine,
        owner: object,
        start: Any,
        handover: Handover | None = None,
    ) -> None:
        self.counts = CacheCounts()
        self._directory = os.fspath(directory)
        self._engine = engine
        self._keys: Keys | None = None
        self._warned: set[str] = set()
        self._last = LastLoaded()
        try:
            self._keys = Keys(start, takes_futures=engine.resolve_dependencies, runs_here=not engine.has_workers)
        except UnhashableError as error:
            self._warn("", f"no result is cached: workers begin with {error}")
        self._store = Store(directory, handover=handover)
        try:
            self._writer = Writer(self._store)
        except BaseException:
            self._store.close()
            raise
        self._writer.close_with(owner)

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], resources: Resources | None = None
    ) -> Future[Any]:
        """Answer a call, or have the engine run it.

        Raises:
            RuntimeError: After the end of the executor.
            TypeError: fn is not callable, or a future is among the arguments of an engine that does not resolve them.
        """
        self._engine.check_usable(fn)
        if self._writer.problem:
            self._warn("", self._writer.problem)
        inputs: list[Entry] = []
        seen = Seen()
        version = version_now()
        if self._keys is not None and resources is not None and resources.cache and resources.cache_key is None:
            args, kwargs = self._with_changed_results(args, kwargs)
        key = None if resources is None else self._key(fn, args, kwargs, resources, inputs, seen)
        if key is None or resources is None or (inputs and any(one.version == UNKNOWN for one in inputs)):
            return self._engine.submit(fn, args, kwargs, resources)
        self._writer.flush_before((key,))
        found = self._store.find(key)
        if found is not None:
            self.counts.found += 1  # no other thread runs between the steps of this: there is no call in it
            return stored_future(key, self._store, found)
        self.counts.missing += 1
        description = self._description(args, kwargs, resources)
        if resources.cache_key is None:  # what has an outdated result among its arguments is outdated itself
            version = min([version, *(one.version for one in inputs)])
            for one in inputs:
                seen.add(one.modules)
        else:
            version = sys.maxsize
        name, exceptions = callable_name(fn), resources.cache_exceptions
        entry = UnwrittenEntry(key, name, version, description, self._store, self._last, inputs or (), exceptions)
        entry.modules = seen.modules
        future = self._engine.submit(fn, args, kwargs, resources, entry)
        if not self._engine.has_workers:
            if not seen.unimported.isdisjoint(sys.modules):  # the key does not tell what it has seen of these modules
                entry.version = UNKNOWN
            _keep_at_once(entry, future)
        self._writer.follow(future, entry)
        return future

    def _with_changed_results(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments with those results in the place of their futures that the user has read and changed."""
        futures = find_futures(args, kwargs)
        if not futures:
            return args, kwargs
        returned = returned_values(self._store, self._last)
        changed = {id(one): one for one in futures if is_changed(one, returned)}
        if not changed:
            return args, kwargs
        try:
            return resolve(args, kwargs, lambda one: changed[id(one)]._result if id(one) in changed else one)
        except TypeError:  # one is a key of a dict, and cannot be hashed: the call will fail
            return args, kwargs

    def look_up(self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]], resources: Resources) -> Answers | None:
        """Return what is known of the calls of a map, so that the others can be sent in batches.

        Args:
            rows: The arguments of each call.

        Returns:
            None: The calls must be submitted one by one, since there are futures or objects of the function among the arguments,
                or a call has no key.
        """
        if self._writer.problem:
            self._warn("", self._writer.problem)
        inputs: list[Entry] = []
        seen = Seen()
        version = version_now()
        cores, result_of, cwd = resources.cores, resources.result_of, resources.cwd
        keys = self._attempt(fn, lambda made: made.of_rows(fn, rows, cores, result_of, inputs, cwd, seen))
        if keys is None or inputs:
            return None
        self._writer.flush_before(keys)
        found = self._store.find_all(keys)
        answered = sum(key in found for key in keys)
        self.counts.found += answered
        self.counts.missing += len(keys) - answered
        arguments = [self._description(args, {}, resources) for args in rows]
        return Answers(keys, found, self._store, self._writer, callable_name(fn), version, seen.modules, arguments)

    def directory_for(self, fn: Callable[..., Any]) -> str | None:
        """Return the directory in which the results of a function are kept; None if not all of them are."""
        name = callable_name(fn)
        if self._keys is None or self._writer.problem or name in self._warned or name in self._writer.unkept:
            return None
        return self._directory

    def _key(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources,
        inputs: list[Entry],
        seen: Seen,
    ) -> bytes | None:
        """Return the key of a call, and note what `Keys.of_call` notes; None if it is not cached."""
        if not resources.cache:
            return None
        if resources.cache_key is not None:
            return key_of_name(resources.cache_key)
        cores, result_of, cwd = resources.cores, resources.result_of, resources.cwd
        return self._attempt(fn, lambda keys: keys.of_call(fn, args, kwargs, cores, result_of, inputs, seen, cwd))

    def _attempt(self, fn: Callable[..., Any], make: Callable[[Keys], T]) -> T | None:
        """Return make(keys); None, perhaps with a warning, if calls of a function have no keys."""
        if self._keys is None:
            return None
        try:
            return make(self._keys)
        except KeylessFutureError:
            self._writer.unkept.add(callable_name(fn))
            return None
        except UnhashableError as error:
            name = callable_name(fn)
            self._warn(name, f"calls of {name}() are not cached whose results may depend on {error}")
        except Exception as error:  # code of the user's classes may raise anything; the engine raises a better error
            name = callable_name(fn)
            self._warn(name, f"calls of {name}() are not cached that have no key: {error!r}")
        return None

    @staticmethod
    def _description(args: tuple[Any, ...], kwargs: dict[str, Any], resources: Resources) -> Any:
        """Return what describes the arguments of a call: it must not change until it is written."""
        if resources.cache_key is not None:
            return resources.cache_key
        if not kwargs and is_plain(args):
            return args
        return ", ".join([*map(_short, args), *(f"{name}={_short(value)}" for name, value in kwargs.items())])

    def _warn(self, about: str, text: str) -> None:
        """Warn once about a function, or about all of the cache."""
        if about not in self._warned:
            self._warned.add(about)
            remedy = ". Give such calls a name by resource_dict={'cache_key': ...}, or turn this off by 'cache': False"
            warn_user(f"{text}{remedy}" if about else text, CacheWarning)

    def close(self, *, wait: bool) -> None:
        """End the cache after the last call; with wait, return when all results are written."""
        self._writer.close(wait=wait)
        if self._writer.problem:
            self._warn("", self._writer.problem)


def _keep_at_once(entry: UnwrittenEntry, future: Future[Any]) -> None:
    """Keep the result, or the exception, of a call that an engine without workers has run."""
    if future.has_result and future.pickled_result() is None:
        entry.keep([bytes(part) for part in payload.dump(future.result())])
    elif entry.keeps_exception and not entry.inputs and not future.cancelled():
        error = future.exception()
        if isinstance(error, Exception) and not isinstance(error, (SerializationError, MemoryError)):
            entry.keep(raised(dump_exception(error)))


def _short(value: Any) -> str:
    """Return a short text for an argument, without the contents of objects."""
    if is_plain((value,)):
        return safe_repr(value)[:SHORT_LENGTH]
    try:
        return _outline(value)[:SHORT_LENGTH]
    except Exception:  # code of the user's classes may raise anything
        return f"<{type(value).__name__}>"[:SHORT_LENGTH]


def _outline(value: Any) -> str:
    """Return the type and the shape of an object; the numbers of a small array."""
    name = type(value).__name__
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        if value.size <= SHOWN_ITEMS_MAX and value.dtype.kind in "biufcSU":
            return safe_repr(value.tolist())
        return f"<{name} {value.dtype} {value.shape}>"
    shape = getattr(value, "shape", None)
    return f"<{name}{'' if shape is None else f' {shape}'}>"
