"""Pack what the calls of a batch get and return, so that no call sees what another one changes.

    arguments, in columns; results, in one column

    numbers, strings, tuples of these      ─► as they are
    flat containers                        ─► copies
    arrays and numpy scalars               ─► copies; one array, if all are of the same type and shape: `ArrayColumn`
    anything else                          ─► a pickle for each call: `Entries`

In one pickle, an object that two calls get is one object in the worker too, and the second call would see what the first one
has changed; what a call has returned could be changed by a later one. Arguments are packed when the user asks for the calls:
later changes of small arguments do not reach them, as with `submit`.

This module is imported with the first batch.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias

from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.sequences import all_types_in, freeze_all, types_in
from pympipool._util.cmodules import pickle
from pympipool.serialization import _entries, _items, payload, plain
from pympipool.serialization.payload import PackedColumns
from pympipool.serialization.plain import IMMUTABLE_TYPES, PROTOCOL

__all__ = ["ArrayColumn", "Entries", "dump_results", "freeze", "pack"]

Entry: TypeAlias = "bytes | tuple[Any, ...]"
"""A pickle, or a pickle with its out-of-band buffers."""


class ArrayColumn:
    """Arrays of one type and shape, or numpy scalars of one type. Loading it returns the list of them.

    Pickling them one by one takes 4 us each, this takes 0.5 us.

    Args:
        array: Has them in its first dimension.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> ArrayColumn:
        return ArrayColumn(self.array[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return _items, (self.array,)


class Entries:
    """Values that are pickled one by one, and unpickled one by one by the iterator.

    Args:
        entries: Their pickles.
        values: Objects that stay alive as long as this one.
        prefix: Bytes with which each of the pickles begins, and which are missing in entries.
    """

    __slots__ = ("entries", "prefix", "values")

    def __init__(self, entries: Sequence[Entry], values: Sequence[Any] = (), prefix: bytes = b"") -> None:
        self.entries = entries
        self.values = values
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, rows: slice) -> Entries:
        return Entries(self.entries[rows], self.values[rows], self.prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.prefix or types_in(self.entries) != {bytes}:
            return _entries, (self.entries, self.prefix)
        prefix = _common_prefix(self.entries)
        return _entries, ([entry[len(prefix) :] for entry in self.entries], prefix)

    def __iter__(self) -> Iterator[Any]:
        """Unpickle each value when it is its turn.

        Raises:
            SerializationError: It cannot be unpickled in this process.
        """
        prefix = self.prefix
        return (payload.load((prefix + entry,) if type(entry) is bytes else entry) for entry in self.entries)


def _common_prefix(pickles: Sequence[Any]) -> bytes:
    """Return the bytes with which all pickles begin: mostly the definition of a class of the script, 2 kB.

    Examples:
        >>> _common_prefix([b"one", b"only", b"on"])
        b'on'
    """
    first, last = min(pickles), max(pickles)
    low, high = 0, min(len(first), len(last))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == last[:middle]:
            low = middle
        else:
            high = middle - 1
    return bytes(first[:low])


class _Nested(Exception):
    """A value is no immutable value, flat container or array of numbers."""


class _PlainPickler(pickle.Pickler):
    """Pickles what plain pickle can pickle rightly and inside the pickle, and raises `_Nested` for anything else."""

    def reducer_override(self, value: Any) -> Any:
        if plain.is_plain(value) and getattr(value, "nbytes", 0) < IN_BAND_BELOW_BYTES:
            return NotImplemented
        raise _Nested


def all_immutable(values: Collection[Any]) -> bool:
    """Return True if all values are certainly immutable: numbers, strings, bytes, and tuples of these.

    Examples:
        >>> all_immutable([1, "two", (3.0, (None, b"5"))]), all_immutable([1, ([],)])
        (True, False)
    """
    plain.array_type()  # adds numpy's scalars to the immutable types
    while True:
        kinds = types_in(values)
        if not kinds - {tuple} <= IMMUTABLE_TYPES:
            return False
        if tuple not in kinds:
            return True
        values = [value for some in values if type(some) is tuple for value in some]


# ---- arguments ----


def pack(columns: Sequence[Sequence[Any]], files_by_name: bool) -> PackedColumns:
    """Return the columns in a form in which no two rows share an object that can change.

    Args:
        columns: The arguments of the calls: a sequence for each parameter, all of the same length.
        files_by_name: The workers see the files of this process (see `payload.dump_call`).

    Raises:
        SerializationError: An argument cannot be pickled.

    Examples:
        >>> same = [1, 2]
        >>> first, second = pack([[same, same]], False)[0]
        >>> first == second, first is second
        (True, False)
    """
    are_immutable = [all_immutable(column) for column in columns]
    changeable = [column for column, immutable in zip(columns, are_immutable, strict=True) if not immutable]
    pairs = itertools.combinations(changeable, 2)
    if not any(one is other for pair in pairs for one, other in zip(*pair, strict=True)):
        try:
            return PackedColumns(
                _as_column(column, types_in(column)) if immutable else _copies(column)
                for column, immutable in zip(columns, are_immutable, strict=True)
            )
        except _Nested:
            pass
    rows = list(zip(*columns, strict=True))
    return PackedColumns((Entries(list(_pickled_rows(rows, files_by_name)), rows),))


def _copies(column: Sequence[Any]) -> Any:
    copies: list[Any] = []
    freeze_all(copies, iter(column), IMMUTABLE_TYPES, _copy_or_array)
    return _as_column(copies, types_in(copies), copy=True)


def _copy_or_array(value: Any) -> Any:
    if type(value) is plain.array_type() and _has_plain_data(value):
        return value
    copied = _copy(value)
    if copied is None:
        raise _Nested
    return copied


def _pickled_rows(rows: Sequence[Any], files_by_name: bool) -> Iterator[Entry]:
    """Yield the pickle of each row."""
    file = io.BytesIO()
    pickler = _PlainPickler(file, PROTOCOL)
    done = 0
    try:
        for row in rows:
            pickler.dump(row)
            yield file.getvalue()
            done += 1
            file.seek(0)
            file.truncate()
            pickler.clear_memo()
    except Exception:  # more than plain pickle can do: so are the other rows, usually
        for row in rows[done:]:
            yield _entry(payload.dump_row(row, files_by_name))


def _entry(parts: Sequence[Any]) -> Entry:
    pickled, *views = parts
    return (pickled, *map(pickle.PickleBuffer, views)) if views else pickled


# ---- results ----


class _PickledResult:
    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry


def freeze(result: Any) -> Any:
    """Return a form of a result for `dump_results` that later changes to the result do not affect.

    Raises:
        SerializationError: The result cannot be pickled.
    """
    copied = _copy(result)
    if copied is not None:
        return copied
    if type(result) in _CONTAINERS:
        file = io.BytesIO()
        try:
            _PlainPickler(file, PROTOCOL).dump(result)
            return _PickledResult(file.getvalue())
        except Exception:  # more than plain pickle can do
            pass
    pickled, *views = payload.dump(result, "the result")
    return _PickledResult((pickled, *map(bytes, views)) if views else pickled)


_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})


def dump_results(results: list[Any]) -> list[plain.Part]:
    """Pickle results, each as `freeze` returned it or of one of the `IMMUTABLE_TYPES`: as a list or as `Entries`."""
    kinds = types_in(results)
    if _PickledResult not in kinds:
        return plain.dump_plain(_as_column(results, kinds))
    entries = [
        one.entry if type(one) is _PickledResult else pickle.dumps(_wrap(one) if _is_array(one) else one, PROTOCOL)
        for one in results
    ]
    return plain.dump_plain(
        Entries([one if type(one) is bytes else (one[0], *map(pickle.PickleBuffer, one[1:])) for one in entries])
    )


# ---- both ----


def _copy(value: Any) -> Any:
    """Return a copy of a container of immutable values or of an array; None for other values."""
    kind = type(value)
    if kind is dict:
        if all_types_in(value.values(), IMMUTABLE_TYPES) and all_types_in(value, IMMUTABLE_TYPES):
            return value.copy()
    elif kind is list or kind is set:
        if all_types_in(value, IMMUTABLE_TYPES):
            return value.copy()
    elif kind is tuple or kind is frozenset:
        if all_types_in(value, IMMUTABLE_TYPES):
            return value
    elif kind is plain.array_type() and _has_plain_data(value):
        array = value.copy()
        array.flags.writeable = value.flags.writeable
        return array
    return None


def _is_array(value: Any) -> bool:
    return type(value) is plain.array_type()


def _has_plain_data(array: Any) -> bool:
    """Return True if an array is contiguous and consists of its data and a dtype of numpy's own, without objects."""
    dtype = array.dtype
    return (
        array.flags.c_contiguous and array.size > 0 and not dtype.hasobject and dtype.kind in "biufcSUV"
        and 0 <= dtype.num <= 23 and dtype.metadata is None  # 23: the last of numpy's own numbers
    )  # fmt: skip


def _as_column(values: Sequence[Any], kinds: set[type], copy: bool = False) -> Any:
    """Return values in the form that travels fastest.

    Args:
        values: Immutable values, copies of containers, and arrays.
        kinds: The types of the values.
        copy: The arrays are the user's own. Those that travel inside the pickle are copied.
    """
    array_type = plain.array_type()
    if array_type is None or kinds.isdisjoint(plain.numpy_types()):
        return values
    if len(kinds) == 1:
        stacked = _stack(values) if array_type in kinds else _scalars(values, *kinds)
        if stacked is not None:
            return ArrayColumn(stacked)
    if array_type not in kinds:
        return values
    return [_wrap(value, copy) if type(value) is array_type else value for value in values]


def _scalars(values: Sequence[Any], kind: type) -> Any:
    """Return numpy scalars of one type as an array; None if it would not give them back."""
    import numpy as np

    array = np.array(values)
    return array if array.dtype.type is kind and array.ndim == 1 else None


def _stack(arrays: Sequence[Any]) -> Any:
    """Return small arrays of one type and shape as one array; None for others."""
    import numpy as np

    first = arrays[0]
    dtype, shape = first.dtype, first.shape
    if not shape or first.nbytes >= IN_BAND_BELOW_BYTES:
        return None
    for array in arrays:
        if array.shape != shape or (array.dtype is not dtype and array.dtype != dtype) or not array.flags.writeable:
            return None
    return np.stack(arrays, out=np.empty((len(arrays), *shape), dtype))  # without out, a dtype may change


def _wrap(array: Any, copy: bool = False) -> Any:
    if copy and array.nbytes < IN_BAND_BELOW_BYTES:
        array = _copy(array)
    wrapped = plain.wrap_large((array,))
    return array if wrapped is None else wrapped[0]
