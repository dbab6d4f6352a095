"""Digest values, so that equal values have equal digests in all sessions, and different ones different digests.

    value ─► Hasher.add ─┬─ numbers, strings, bytes ─► type and bytes
                         ├─ lists, tuples, dicts    ─► length, then the items in their order
                         ├─ sets                    ─► the digests of the items, sorted
                         ├─ arrays                  ─► dtype, shape and bytes
                         ├─ futures                 ─► the keys of their calls
                         ├─ functions, classes, modules ─► functions.py, modules.py
                         └─ all other objects       ─► what pickle would store of them, which has no addresses

What pickle refuses has no digest: open files, locks, generators.
An object that occurs twice is digested once, and its number stands for it the second time. So objects may refer to themselves,
and it makes a difference whether two lists are one object: for a function that changes one of them it does.
"""

from __future__ import annotations

import copyreg
import hashlib
import pickle
import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pympipool._core.shared_ranges import shared_place
from pympipool._util.reprs import type_name

if TYPE_CHECKING:
    from pympipool.caching.entries import Entry

__all__ = ["DIGEST_BYTES", "Hasher", "KeylessFutureError", "UnhashableError", "digest_of"]

DIGEST_BYTES = 20
"""Size of digests and keys: two different calls have the same one with a probability of 1e-24 among a trillion calls."""


COPIED_BYTES = 1 << 16
"""Size of arrays up to which a copy takes less time than a view."""


class UnhashableError(Exception):
    """A value has no digest that is the same in all sessions. The message says what it is."""


class KeylessFutureError(UnhashableError):
    """A future is among the arguments whose call has no key."""


class Hasher:
    """Digests values.

    Args:
        parent: The hasher that meets the value first; None for a value by itself.

    Attributes:
        takes_futures: Futures stand for their results; else they have no digest.
        version: Modules whose files have changed later have no digest; see `modules.version_of_files`.
        inputs: The entries of the calls of these futures.
    """

    def __init__(self, parent: Hasher | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._numbers: dict[int, int] = {} if parent is None else dict(parent._numbers)
        self._kept: list[Any] = []  # so that no id is reused
        self.takes_futures: bool = True if parent is None else parent.takes_futures
        self.version: int = sys.maxsize if parent is None else parent.version
        self.inputs: list[Entry] = [] if parent is None else parent.inputs

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
        add = _ADDERS.get(type(value))
        if add is not None:
            add(self, value)
        elif self.is_new(value):
            _add_object(self, value)

    def add_all(self, tag: bytes, values: Iterable[Any]) -> None:
        """Add several values, in their order."""
        values = tuple(values)
        self.feed(tag, b"%d" % len(values))
        for value in values:
            self.add(value)

    def add_named(self, tag: bytes, values: Mapping[str, Any], what: str) -> None:
        """Add values by name, in the order of their names.

        Args:
            what: Describes a value for messages, with {} for its name.
        """
        self.feed(tag, b"%d" % len(values))
        for name in sorted(values):
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
        """Add several values whose order depends on the session."""
        digests = []
        for value in values:
            hasher = Hasher(self)
            hasher.add(value)
            digests.append(hasher.digest())
            self._kept.append(hasher._kept)
        self.feed(tag, b"".join(sorted(digests)))

    def is_new(self, value: Any) -> bool:
        """Return True at the first time for an object; else add its number."""
        number = self._numbers.get(id(value))
        if number is not None:
            self.feed(b"again", b"%d" % number)
            return False
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        return True


def digest_of(*values: Any, version: int = sys.maxsize) -> bytes:
    """Return the digest of values.

    Args:
        version: That of `Hasher`.

    Raises:
        UnhashableError: One of them has none.

    Examples:
        >>> digest_of({"a", "b"}) == digest_of({"b", "a"})
        True
        >>> digest_of(1) == digest_of(1.0)
        False
    """
    hasher = Hasher()
    hasher.version = version
    try:
        hasher.add_all(b"values", values)
    except RecursionError:
        raise UnhashableError("values that are nested too deeply") from None
    return hasher.digest()


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

_ADDERS: dict[type, _Adder] = {
    type(None): lambda hasher, _: hasher.feed(b"None"),
    type(...): lambda hasher, _: hasher.feed(b"..."),
    type(NotImplemented): lambda hasher, _: hasher.feed(b"NotImplemented"),
    bool: lambda hasher, value: hasher.feed(b"bool", b"1" if value else b"0"),
    int: _add_int,
    float: lambda hasher, value: hasher.feed(b"float", struct.pack("<d", value)),
    complex: lambda hasher, value: hasher.feed(b"complex", struct.pack("<dd", value.real, value.imag)),
    str: lambda hasher, value: hasher.text(b"str", value),
    bytes: lambda hasher, value: hasher.feed(b"bytes", value),
    bytearray: lambda hasher, value: hasher.feed(b"bytearray", value),
    tuple: lambda hasher, value: hasher.add_all(b"tuple", value),
    list: _add_list,
    dict: _add_dict,
    types.MappingProxyType: _add_dict,
    set: _add_set,
    frozenset: lambda hasher, value: hasher.add_unordered(b"frozenset", value),
    types.FunctionType: _add_function,
    types.MethodType: _add_method,
    types.ModuleType: _add_module,
    types.CodeType: _add_code,
    pickle.PickleBuffer: lambda hasher, value: hasher.feed(b"buffer", value.raw()),
}


# ---- other objects ----


def _add_object(hasher: Hasher, value: Any) -> None:
    kind = type(value)
    if issubclass(kind, type):
        from pympipool.caching.functions import add_class

        add_class(hasher, value)
    elif isinstance(value, Future):
        _add_future(hasher, value)
    elif isinstance(value, (set, frozenset)):
        hasher.add(kind)
        hasher.add_unordered(b"set", value)
        hasher.add(getattr(value, "__dict__", None))
    elif _is_array(value):
        _add_array(hasher, value)
    elif kind.__module__ == "pympipool.serialization.shared":  # its key is another one in each session
        hasher.add(value.value)
    else:
        from pympipool.caching.functions import add_special

        if not add_special(hasher, value):
            _add_reduced(hasher, value)


def _add_future(hasher: Hasher, future: Future[Any]) -> None:
    """Add the key of a call in place of its result: it is known before the result is, and without reading it."""
    entry = getattr(future, "cache_entry", None)
    origin: tuple[Any, ...] | None = getattr(future, "derived_from", None) if entry is None else (entry.key,)
    if origin is None or not hasher.takes_futures:
        raise KeylessFutureError("a future whose call has no key")
    hasher.inputs.append(future.source_entry if entry is None else entry)  # type: ignore[attr-defined]
    hasher.add_all(b"future", origin)


def _is_array(value: Any) -> bool:
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic))


def _add_array(hasher: Hasher, array: Any) -> None:
    """Add an array, or a scalar, of numpy."""
    if shared_place(array) is not None:
        raise UnhashableError("an array in shared memory, which calls may write")
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    description = (array.dtype.descr if array.dtype.names else array.dtype.str, array.shape, is_fortran)
    hasher.feed(b"array", repr((type(array).__name__, *description)).encode())
    if array.dtype.hasobject:
        hasher.add_all(b"objects", array.ravel(order="K").tolist())
    elif array.nbytes < COPIED_BYTES or not (array.flags.c_contiguous or array.flags.f_contiguous):
        hasher.feed(b"data", array.tobytes(order="A"))
    else:
        hasher.feed(b"data", array.reshape(-1, order="A").view("u1").data)


def _add_reduced(hasher: Hasher, value: Any) -> None:
    """Add what pickle would store of an object."""
    kind = type(value)
    try:
        reduce = copyreg.dispatch_table.get(kind)
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(5)
    except Exception as error:  # any class may raise anything
        raise UnhashableError(f"an object of type {type_name(kind)}, which pickle refuses ({error})") from None
    if isinstance(reduced, str):
        _add_global(hasher, value, reduced)
        return
    stored: list[Any] = [*reduced, None, None, None]
    function, arguments, state, items, pairs = stored[:5]
    hasher.feed(b"object")
    try:
        hasher.add(function)
        hasher.add_all(b"arguments", arguments)
        hasher.add(state)
        hasher.add_all(b"items", () if items is None else items)
        hasher.add_all(b"pairs", () if pairs is None else pairs)
    except KeylessFutureError:
        raise
    except UnhashableError as error:
        raise UnhashableError(f"an object of type {type_name(kind)} that holds {error}") from None


def _add_global(hasher: Hasher, value: Any, name: str) -> None:
    """Add an object that pickle stores as its name in a module, such as a compiled function, and the module."""
    from pympipool.caching.modules import add_module_named

    module = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
    hasher.text(b"global", name)
    if module == "__main__":
        hasher.add_all(b"instance", (type(value), getattr(value, "__dict__", None)))
    else:
        add_module_named(hasher, module)
