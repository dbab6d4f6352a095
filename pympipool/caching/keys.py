"""The key of a call: what its result depends on, in 20 bytes.

    Python's minor version, what the executor's workers have done before, ranks ─┐
    function ─► FunctionDigests: digested once, until something has changed     ─┼─► key
    arguments, with the keys of futures in their place                          ─┘

Calls with the same key return the same, as far as they depend on nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pympipool._core.sequences import all_types_in
from pympipool._core.snapshot import Snapshot
from pympipool.caching.modules import version_of_files
from pympipool.caching.values import DIGEST_BYTES, Hasher, UnhashableError, digest_of
from pympipool.serialization.analysis import Analysis

if TYPE_CHECKING:
    from pympipool.caching.entries import Entry

__all__ = ["Keys", "is_plain", "key_of_name"]

_PLAIN = {type(None), bool, int, float, complex, str, bytes}

FUNCTIONS_MAX = 256
"""Number of functions whose digests are kept. They are kept alive as long."""

_MARSHAL_VERSION = 0
"""The oldest format: the same bytes for equal values, whether or not parts of them are one object."""


class Keys:
    """Makes the keys of the calls of one executor.

    Args:
        start: What runs in each worker before its first call: functions and their arguments.
        takes_futures: Futures among the arguments stand for their results.

    Raises:
        UnhashableError: It has no digest, so neither have the calls.
    """

    def __init__(self, start: Any = None, *, takes_futures: bool = True) -> None:
        self._takes_futures = takes_futures
        self._version = version_of_files(now=True)
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._base.update(b"1 %d.%d " % sys.version_info[:2] + digest_of(start))
        self._functions = FunctionDigests(self._version)

    def of_call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        cores: int,
        result_of: str,
        inputs: list[Entry] | None = None,
    ) -> bytes:
        """Return the key of a call.

        Args:
            inputs: Gets the entries of the calls whose results are among the arguments.

        Raises:
            UnhashableError: The function or an argument has no digest.
        """
        hasher = self._begin(fn, cores, result_of)
        if not kwargs and is_plain(args):
            hasher.update(b"plain" + marshal.dumps(args, _MARSHAL_VERSION))
        else:
            hasher.update(b"other" + self._digest_of_arguments(fn, args, kwargs, inputs))
        return hasher.digest()

    def of_rows(
        self, fn: Callable[..., Any], rows: Iterable[tuple[Any, ...]], cores: int, result_of: str, inputs: list[Entry]
    ) -> Iterator[bytes]:
        """Yield the keys of calls of one function, as `of_call` returns them."""
        begin = self._begin(fn, cores, result_of)
        for args in rows:
            hasher = begin.copy()
            if is_plain(args):
                hasher.update(b"plain" + marshal.dumps(args, _MARSHAL_VERSION))
            else:
                hasher.update(b"other" + self._digest_of_arguments(fn, args, {}, inputs))
            yield hasher.digest()

    def _begin(self, fn: Callable[..., Any], cores: int, result_of: str) -> hashlib.blake2b:
        """Return a hash of what all calls of a function have in common."""
        hasher = self._base.copy()
        hasher.update(self._functions.digest(fn))
        if cores > 1:
            hasher.update(b"%d %b" % (cores, result_of.encode()))
        return hasher

    def _digest_of_arguments(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Entry] | None
    ) -> bytes:
        """Return the digest of arguments. The order of keyword arguments counts for functions that take any of them."""
        code = getattr(fn, "__code__", None)
        hasher = Hasher()
        hasher.takes_futures = self._takes_futures
        hasher.version = self._version
        hasher.inputs = [] if inputs is None else inputs
        try:
            hasher.feed(b"args", b"%d" % len(args))
            for number, value in enumerate(args, start=1):
                hasher.add_as(f"argument {number}", value)
            if code is not None and code.co_flags & 0x08:  # CO_VARKEYWORDS
                hasher.add_all(b"order", kwargs)
            hasher.add_named(b"kwargs", kwargs, "the argument {}")
        except RecursionError:
            raise UnhashableError("the arguments, which are nested too deeply") from None
        return hasher.digest()


def is_plain(args: tuple[Any, ...]) -> bool:
    """Return True if all arguments are numbers and strings."""
    return all_types_in(args, _PLAIN)


def key_of_name(name: str) -> bytes:
    """Return the key for a name that the user has given to a call."""
    return hashlib.blake2b(b"name " + name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class FunctionDigests:
    """The digests of functions. A digest is kept as long as nothing has changed that the function refers to.

    Args:
        version: That of `Hasher`.
    """

    def __init__(self, version: int) -> None:
        self._version = version
        self._known: dict[int, tuple[Any, Callable[[], bool] | None, int, bytes]] = {}

    def digest(self, fn: Callable[..., Any]) -> bytes:
        """Return the digest of a function.

        Raises:
            UnhashableError: It has none.
        """
        known = self._known.get(id(fn))
        if known is not None:
            _, is_current, version, digest = known
            if is_current is not None and is_current() and version == version_of_files():
                return digest
        if type(fn) is functools.partial:
            return digest_of(self.digest(fn.func), fn.args, fn.keywords, vars(fn), version=self._version)
        if type(fn) is types.MethodType:
            return digest_of(self.digest(fn.__func__), fn.__self__, version=self._version)
        version = version_of_files()
        is_current = None if known is not None and known[1] is None else _comparison(fn)
        digest = digest_of(fn, version=self._version)
        if len(self._known) >= FUNCTIONS_MAX:
            self._known.clear()
        self._known[id(fn)] = fn, is_current, version, digest
        return digest


def _comparison(fn: Callable[..., Any]) -> Callable[[], bool] | None:
    """Return a function that tells whether a function is still the same; None if it may change unseen."""
    try:
        snapshot: Snapshot = Analysis(fn).snapshot
    except Exception:  # NotCacheable; or what code of the user's metaclasses raises
        return None
    return snapshot.is_current
