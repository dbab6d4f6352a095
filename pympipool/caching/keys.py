"""The key of a call: what its result depends on, in 20 bytes.

    Python's minor version, what the executor's workers have done before,       ─┐
    ranks, whether calls run in this process, the folder that was asked for     ─┤
    function ─► FunctionDigests: digested once, until something has changed     ─┼─► key
    arguments, with the keys of futures in their place                          ─┘

Calls with the same key return the same, as far as they depend on nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import marshal
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pympipool._core.sequences import all_types_in
from pympipool._core.snapshot import Snapshot
from pympipool.caching.modules import changed_since, version_now, version_of_files
from pympipool.caching.scopes import Scope, Seen
from pympipool.caching.values import DIGEST_BYTES, Hasher, UnhashableError, digest_of, guarded
from pympipool.serialization.analysis import Analysis

if TYPE_CHECKING:
    from pympipool.caching.entries import Entry

__all__ = ["Keys", "is_plain", "key_of_name"]

_PLAIN = {type(None), bool, int, float, complex, str, bytes}

FUNCTIONS_MAX = 256
"""Number of functions whose digests are kept. Those that refer to nothing that may change unseen are kept alive as long."""

_VERSION = 5
"""The way in which keys are made: results whose keys were made in another way are not found."""

_MARSHAL_VERSION = 0
"""The oldest format: the same bytes for equal values, whether or not parts of them are one object."""


class Keys:
    """Makes the keys of the calls of one executor.

    Args:
        start: What runs in each worker before its first call: functions and their arguments.
        takes_futures: Futures among the arguments stand for their results.
        runs_here: Calls run in this process, with the modules that it has imported.
        has_workers: Processes that were started before may run the calls, with modules as they were. Else each call imports them as
            they are when it is submitted.

    Raises:
        UnhashableError: `start` has no digest, so neither have the calls.
    """

    def __init__(
        self, start: Any = None, *, takes_futures: bool = True, runs_here: bool = False, has_workers: bool = True
    ) -> None:
        self._takes_futures = takes_futures
        self._runs_here = runs_here
        self._version = version_now(now=True) if has_workers else sys.maxsize
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        kind = (_VERSION, *sys.version_info[:2], b"here " if runs_here else b"")
        scope = Scope(runs_here=runs_here)
        self._base.update(b"%d %d.%d %b" % kind + digest_of(start, scope=scope))
        self._modules = frozenset(scope.modules)
        self._functions = FunctionDigests(self._version, runs_here)

    def of_call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        cores: int,
        result_of: str,
        inputs: list[Entry] | None = None,
        seen: Seen | None = None,
        cwd: str | None = None,
    ) -> bytes:
        """Return the key of a call.

        Args:
            cwd: The folder in which the user has asked for the call to run; None: where the script runs, which does not count.
            inputs: Gets the entries of the calls whose results are among the arguments.
            seen: Gets the names of modules. If the call imports one that is not imported yet, its result depends on what the key
                does not tell.

        Raises:
            UnhashableError: The function or an argument has no digest.
        """
        seen = Seen() if seen is None else seen
        hasher, changing = self._begin(fn, cores, result_of, cwd, seen)
        if not kwargs and is_plain(args):
            hasher.update(b"plain" + marshal.dumps(args, _MARSHAL_VERSION))
        else:
            hasher.update(b"other" + self._hasher_of(fn, changing, args, kwargs, inputs, seen).digest())
        return hasher.digest()

    def of_rows(
        self,
        fn: Callable[..., Any],
        rows: Iterable[tuple[Any, ...]],
        cores: int,
        result_of: str,
        inputs: list[Entry],
        cwd: str | None = None,
        seen: Seen | None = None,
    ) -> list[bytes] | None:
        """Return the keys of calls of one function that travel in batches, as `of_call` returns them.

        Returns:
            None: An argument is, or holds, an object that the function has, too. In a batch it would be another one.
        """
        keys = []
        seen = Seen() if seen is None else seen
        begin, changing = self._begin(fn, cores, result_of, cwd, seen)
        for args in rows:
            hasher = begin.copy()
            if is_plain(args):
                hasher.update(b"plain" + marshal.dumps(args, _MARSHAL_VERSION))
            else:
                of_arguments = self._hasher_of(fn, changing, args, {}, inputs, seen)
                if of_arguments.scope.meets_function:
                    return None
                hasher.update(b"other" + of_arguments.digest())
            keys.append(hasher.digest())
        return keys

    def _begin(
        self, fn: Callable[..., Any], cores: int, result_of: str, cwd: str | None, seen: Seen
    ) -> tuple[hashlib.blake2b, Hasher | None]:
        """Return a hash of what all calls of a function have in common, and what `FunctionDigests.digest` returns.

        Raises:
            UnhashableError: What workers begin with has changed: later ones do something else than former ones.
        """
        hasher = self._base.copy()
        if self._modules:
            changed = changed_since(self._modules, self._version)
            if changed:
                raise UnhashableError(f"the module {changed}, which has changed since the executor was made")
            seen.add(self._modules)
        digest, changing = self._functions.digest(fn, seen)
        hasher.update(digest)
        if cores > 1:
            hasher.update(b"%d %b" % (cores, result_of.encode()))
        if cwd is not None:
            folder = os.fsencode(cwd)
            hasher.update(b"cwd %d:%b" % (len(folder), folder))
        return hasher, changing

    def _hasher_of(
        self,
        fn: Callable[..., Any],
        changing: Hasher | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: list[Entry] | None,
        seen: Seen,
    ) -> Hasher:
        """Return a hasher of arguments.

        The order of keyword arguments counts, unless the function is known to name all that it takes.
        """
        scope = Scope(
            self._takes_futures,
            self._version,
            self._runs_here,
            unimported=seen.unimported,
            inputs=[] if inputs is None else inputs,
            of_function=0 if changing is None else changing.count,
        )
        hasher = Hasher(scope, changing)

        def add() -> None:
            hasher.feed(b"args", b"%d" % len(args))
            for number, value in enumerate(args, start=1):
                hasher.add_as(f"argument {number}", value)
            hasher.add_named(b"kwargs", kwargs, "the argument {}", order_counts=len(kwargs) > 1 and _sees_order(fn))

        guarded("arguments", add)
        seen.add(scope.modules)
        return hasher


def is_plain(args: tuple[Any, ...]) -> bool:
    """Return True if all arguments are numbers and strings."""
    return all_types_in(args, _PLAIN)


def key_of_name(name: str) -> bytes:
    """Return the key for a name that the user has given to a call."""
    return hashlib.blake2b(b"name " + name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def _sees_order(fn: Callable[..., Any]) -> bool:
    """Return True if a function may see the order of keyword arguments: it takes any of them, or does not tell."""
    called: Any = fn
    while type(called) in (functools.partial, types.MethodType):
        called = called.func if type(called) is functools.partial else called.__func__
    return type(called) is not types.FunctionType or bool(called.__code__.co_flags & inspect.CO_VARKEYWORDS)


class FunctionDigests:
    """The digests of functions. A digest is kept as long as nothing has changed that the function refers to.

    Args:
        version: As of `Scope`.
        runs_here: As of `Scope`.
    """

    def __init__(self, version: int, runs_here: bool = False) -> None:
        self._version = version
        self._runs_here = runs_here
        self._known: dict[int, tuple[Any, Callable[[], bool], int, bytes, frozenset[str]]] = {}
        self._changing: dict[int, weakref.ref[Any]] = {}  # what may change unseen, and may hold much

    def digest(self, fn: Callable[..., Any], seen: Seen) -> tuple[bytes, Hasher | None]:
        """Return the digest of a function.

        Args:
            seen: As of `Keys.of_call`.

        Returns:
            The digest, and a hasher that has met what belongs to the function and may change: it makes a difference whether an
            argument is the same object. None if there is nothing of this kind.

        Raises:
            UnhashableError: It has none.
        """
        known = self._known.get(id(fn))
        if known is not None:
            _, is_unchanged, version, digest, modules = known
            if is_unchanged() and version == version_of_files():
                seen.add(modules)
                return digest, None
        scope = Scope(version=self._version, runs_here=self._runs_here, unimported=seen.unimported)
        if type(fn) is functools.partial:
            return self._digest_with(fn.func, seen, scope, fn.args, fn.keywords, vars(fn))
        if type(fn) is types.MethodType:
            return self._digest_with(fn.__func__, seen, scope, fn.__self__)
        version = version_of_files()
        reference = self._changing.get(id(fn))
        is_current = None if reference is not None and reference() is fn else _comparison(fn)
        hasher = Hasher(scope)
        guarded("values", lambda: hasher.add(fn))
        if scope.saw_memory:
            is_current = None
        digest = hasher.digest()
        if len(self._known) + len(self._changing) >= FUNCTIONS_MAX:
            self._known.clear()
            self._changing.clear()
        modules = frozenset(scope.modules)
        seen.add(modules)
        if is_current is not None:
            self._known[id(fn)] = fn, is_current, version, digest, modules
            return digest, None
        self._known.pop(id(fn), None)
        with suppress(TypeError):  # it has no weak references
            self._changing[id(fn)] = weakref.ref(fn)
        return digest, hasher

    def _digest_with(self, fn: Callable[..., Any], seen: Seen, scope: Scope, *values: Any) -> tuple[bytes, Hasher]:
        """Return the digest of a function together with values."""
        digest, changing = self.digest(fn, seen)
        hasher = Hasher(scope, changing)
        guarded("values", lambda: hasher.add_all(b"with", (digest, *values)))
        seen.add(scope.modules)
        return hasher.digest(), hasher


def _comparison(fn: Callable[..., Any]) -> Callable[[], bool] | None:
    """Return a function that tells whether a function is still the same; None if it may change unseen."""
    try:
        snapshot: Snapshot = Analysis(fn).snapshot
    except Exception:  # NotCacheable; or what code of the user's metaclasses raises
        return None
    return snapshot.is_current
