"""Digest values, so that equal values have equal digests in all sessions, and different ones different digests.

    value ─► Hasher.add ─┬─ numbers, strings, bytes ─► type and bytes
                         ├─ lists, tuples, dicts    ─► length, then the items in their order
                         ├─ sets                    ─► the digests of the items, sorted
                         ├─ arrays                  ─► dtype, shape, order, whether they may be written, and bytes (numpy_values.py)
                         ├─ futures                 ─► the keys of their calls
                         ├─ functions, classes, modules ─► functions.py, modules.py
                         └─ all other objects       ─► what pickle would store of them, which has no addresses (objects.py)

What pickle refuses has no digest: open files, locks, generators.
An object that occurs twice is digested once, and its number stands for it the second time. So objects may refer to themselves,
and it makes a difference whether two lists are one object: for a function that changes one of them it does.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from pympipool._util.reprs import summarize_error
from pympipool.caching.scopes import Scope

T = TypeVar("T")

__all__ = [
    "ADDERS",
    "DIGEST_BYTES",
    "Hasher",
    "KeylessFutureError",
    "UnhashableError",
    "digest_of",
    "guarded",
]

DIGEST_BYTES = 20
"""Size of digests and keys: two different calls have the same one with a probability of 1e-24 among a trillion calls."""


DEPTH_OF_SETS = 2

IN_SETS_MAX = 10_000
"""Number of objects that are digested in sets in sets, more than `DEPTH_OF_SETS` deep. Each item of a set is digested by itself: so
the nodes of a graph that have sets of their neighbors would take a time that grows exponentially."""


class UnhashableError(Exception):
    """A value has no digest that is the same in all sessions. The message says what it is."""


class KeylessFutureError(UnhashableError):
    """A future is among the arguments whose call has no key."""


class Hasher:
    """Digests values.

    Args:
        scope: What holds for them.
        parent: The hasher that has met other values first, and meets no more meanwhile; None for values by themselves.

    Attributes:
        has_arrays: It has met an array of numpy's, whose methods are those of the numpy that is installed.
    """

    def __init__(self, scope: Scope | None = None, parent: Hasher | None = None) -> None:
        self.scope = Scope() if scope is None else scope
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._parent = parent
        self._numbers: dict[int, int] = {}  # of what the parent has not met
        self._first_number: int = 0 if parent is None else parent.count
        # What has a number that is another one in other sessions.
        self._ambiguous: frozenset[int] = frozenset() if parent is None else parent._ambiguous
        self._kept: list[Any] = []
        self._depth = 0  # of sets
        self.has_arrays = False

    @property
    def count(self) -> int:
        """How many objects this hasher and its parents have met."""
        return self._first_number + len(self._numbers)

    def digest(self) -> bytes:
        """Return the digest of all that was added."""
        return self._hash.digest()

    def feed(self, tag: bytes, data: Any = b"") -> None:
        """Add bytes, with a tag that tells what they are."""
        size = memoryview(data).nbytes
        self._hash.update(b"%b%d:" % (tag, size))
        self._hash.update(data)

    def text(self, tag: bytes, text: str) -> None:
        """Add a text."""
        self.feed(tag, text.encode("utf-8", "surrogatepass"))

    def add(self, value: Any) -> None:
        """Add a value.

        Raises:
            UnhashableError: The value, or something in it, has no digest.
        """
        add = ADDERS.get(type(value))
        if add is not None:
            add(self, value)
        elif not _add_immutable(self, value) and self.is_new(value):
            from pympipool.caching.objects import add_object

            add_object(self, value)

    def add_all(self, tag: bytes, values: Iterable[Any]) -> None:
        """Add several values, in their order."""
        values = tuple(values)
        self.feed(tag, b"%d" % len(values))
        for value in values:
            self.add(value)

    def add_named(self, tag: bytes, values: Mapping[str, Any], what: str, *, order_counts: bool = False) -> None:
        """Add values by name.

        Args:
            what: Describes a value for messages, with {} for its name.
            order_counts: It makes a difference in which order they are.
        """
        self.feed(tag, b"%d" % len(values))
        for name in values if order_counts else sorted(values):
            self.text(b"name", name)
            self.add_as(what.format(name), values[name])

    def add_as(self, what: str, value: Any) -> None:
        """Add a value that messages call by this name."""
        try:
            self.add(value)
        except KeylessFutureError:
            raise
        except UnhashableError as error:
            raise UnhashableError(f"{what}: {error}") from None

    def add_unordered(self, tag: bytes, values: Iterable[Any]) -> None:
        """Add several values whose order depends on the session.

        Each is digested by itself. What is in one of them has the number, for the others and for later, that it gets in the order
        of the digests. If digests are equal, what only some of these values have is in no order: it must not be met again.

        Raises:
            UnhashableError: A value has no digest, or what is in no order was met again.
        """
        digests = []
        met: list[tuple[bytes, Hasher]] = []  # a set of a million strings must not keep as many hashers
        for value in values:
            hasher = Hasher(self.scope, self)
            hasher._depth = self._depth + 1
            hasher.add(value)
            digests.append(hasher.digest())
            if hasher._numbers:
                met.append((digests[-1], hasher))
        self.feed(tag, b"".join(sorted(digests)))
        met.sort(key=itemgetter(0))
        for _, group in groupby(met, key=itemgetter(0)):
            alike = [hasher for _, hasher in group]
            if len(alike) > 1:
                found = [set(hasher._numbers.items()) for hasher in alike]
                in_some = found[0].union(*found) - found[0].intersection(*found)
                self._ambiguous |= {place for place, _ in in_some}
            for hasher in alike:
                self._ambiguous |= hasher._ambiguous
                self.keep(hasher._kept)
                for place, number in hasher._numbers.items():
                    known = self._number_of(place)
                    if known is not None:
                        self.feed(b"shared", b"%d %d" % (number, known))
                    else:
                        self._numbers[place] = self.count

    def _number_of(self, place: int) -> int | None:
        """Return the number of an object that was met before, else None."""
        hasher: Hasher | None = self
        while hasher is not None:
            number = hasher._numbers.get(place)
            if number is not None:
                if place in self._ambiguous:
                    raise UnhashableError("objects of a set that differ in nothing, if one of them is met again")
                return number
            hasher = hasher._parent
        return None

    def is_new(self, value: Any) -> bool:
        """Return True at the first time for an object; else add its number."""
        number = self._number_of(id(value))
        if number is not None:
            self.feed(b"again", b"%d" % number)
            if number < self.scope.of_function and not _is_code(value):
                self.scope.meets_function = True
            return False
        if self._depth > DEPTH_OF_SETS:
            self.scope.in_sets += 1
            if self.scope.in_sets > IN_SETS_MAX:
                raise UnhashableError("sets of objects that have sets of each other")
        self._numbers[id(value)] = self.count
        self.keep(value)
        return True

    def keep(self, value: Any) -> None:
        """Keep a value alive, so that its id is that of no other one."""
        self._kept.append(value)


def _is_code(value: Any) -> bool:
    """Return True for classes, and functions without variables around them: in a worker, what they refer to is one anyway."""
    kind = type(value)
    return issubclass(kind, (type, types.BuiltinFunctionType)) or (
        kind is types.FunctionType and value.__closure__ is None
    )


def digest_of(*values: Any, scope: Scope | None = None) -> bytes:
    """Return the digest of values.

    Raises:
        UnhashableError: One of them has none.

    Examples:
        >>> digest_of({"a", "b"}) == digest_of({"b", "a"})
        True
        >>> digest_of(1) == digest_of(1.0)
        False
    """
    hasher = Hasher(scope)
    guarded("values", lambda: hasher.add_all(b"values", values))
    return hasher.digest()


def guarded(what: str, make: Callable[[], T]) -> T:
    """Return make(), which digests values. Their classes may raise anything.

    Raises:
        UnhashableError: One of the values has no digest.
    """
    try:
        return make()
    except UnhashableError:
        raise
    except RecursionError:
        raise UnhashableError(f"{what} that are nested too deeply") from None
    except Exception as error:
        raise UnhashableError(f"{what} that cannot be read ({summarize_error(error)})") from error


# ---- values of types that are no subclasses ----


def _add_int(hasher: Hasher, value: int) -> None:
    hasher.feed(b"int", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def _add_list(hasher: Hasher, value: list[Any]) -> None:
    if hasher.is_new(value):
        hasher.add_all(b"list", value)


def _add_dict(hasher: Hasher, value: Mapping[Any, Any]) -> None:
    if hasher.is_new(value):
        hasher.feed(b"dict", b"%d" % len(value))
        for key, item in value.items():
            hasher.add(key)
            hasher.add(item)


def _add_proxy(hasher: Hasher, value: types.MappingProxyType[Any, Any]) -> None:
    hasher.feed(b"proxy")
    _add_dict(hasher, value)


def _add_bytearray(hasher: Hasher, value: bytearray) -> None:
    if hasher.is_new(value):
        hasher.feed(b"bytearray", value)


def _add_buffer(hasher: Hasher, value: pickle.PickleBuffer) -> None:
    content = value.raw()
    hasher.feed(b"bytes of a buffer" if content.readonly else b"buffer", content)


def _add_set(hasher: Hasher, value: set[Any]) -> None:
    if hasher.is_new(value):
        hasher.add_unordered(b"set", value)


def _add_method(hasher: Hasher, value: types.MethodType) -> None:
    hasher.add_all(b"method", (value.__func__, value.__self__))


def _add_function(hasher: Hasher, value: Any) -> None:
    from pympipool.caching.functions import add_function

    if hasher.is_new(value):
        add_function(hasher, value)


def _add_module(hasher: Hasher, value: types.ModuleType) -> None:
    from pympipool.caching.modules import add_module

    add_module(hasher, value)


def _add_code(hasher: Hasher, value: types.CodeType) -> None:
    from pympipool.caching.code import add_code

    add_code(hasher, value)


_Adder = Callable[[Hasher, Any], None]

ADDERS: dict[type, _Adder] = {
    type(None): lambda hasher, _: hasher.feed(b"None"),
    type(...): lambda hasher, _: hasher.feed(b"..."),
    type(NotImplemented): lambda hasher, _: hasher.feed(b"NotImplemented"),
    bool: lambda hasher, value: hasher.feed(b"bool", b"1" if value else b"0"),
    int: _add_int,
    float: lambda hasher, value: hasher.feed(b"float", struct.pack("<d", value)),
    complex: lambda hasher, value: hasher.feed(b"complex", struct.pack("<dd", value.real, value.imag)),
    str: lambda hasher, value: hasher.text(b"str", value),
    bytes: lambda hasher, value: hasher.feed(b"bytes", value),
    bytearray: _add_bytearray,
    tuple: lambda hasher, value: hasher.add_all(b"tuple", value),
    list: _add_list,
    dict: _add_dict,
    types.MappingProxyType: _add_proxy,
    set: _add_set,
    frozenset: lambda hasher, value: hasher.add_unordered(b"frozenset", value),
    types.FunctionType: _add_function,
    types.MethodType: _add_method,
    types.ModuleType: _add_module,
    types.CodeType: _add_code,
    pickle.PickleBuffer: _add_buffer,
}


def _add_immutable(hasher: Hasher, value: Any) -> bool:
    """Add a scalar or a dtype of numpy: it makes no difference whether two of them are one object. Return False for others."""
    numpy: Any = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)  # another thread may be importing numpy
    if generic is None or not issubclass(type(value), (generic, getattr(numpy, "dtype", generic))):
        return False
    from pympipool.caching import numpy_values

    return numpy_values.add_immutable(hasher, value)
