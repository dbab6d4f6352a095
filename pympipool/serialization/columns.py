"""Pack what the calls of a batch get and return, so that no call sees what another one changes.

    arguments, in columns; results, in one column

    numbers, strings, tuples of these      ─► as they are
    containers, instances of one shape     ─► columns of what they consist of: `Records`; instances of arguments: `Rows`
    other containers, instances            ─► copies (`copying.py`), all in one pickle; instances of arguments: `Rows`
    arrays and numpy scalars               ─► copies; one array, if all are of the same type and shape: `ArrayColumn`
    anything else                          ─► a pickle for each call: `Entries`

In one pickle, an object that two calls get is one object in the worker too, and the second call would see what the first one
has changed; what a call has returned could be changed by a later one. Arguments are packed when the user asks for the calls:
later changes of small arguments do not reach them, as with `submit`.

This module is imported with the first batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.records import Transposer
from pympipool._core.sequences import all_types_in, types_in
from pympipool._core.shared_ranges import shared_place
from pympipool._util.cmodules import pickle
from pympipool.serialization import payload, plain
from pympipool.serialization.column_forms import ArrayColumn, Entries, Entry, Records, Rows
from pympipool.serialization.copying import COPIES_MIN, argument_copier, copied_array, find_way, has_plain_data
from pympipool.serialization.payload import PackedColumns
from pympipool.serialization.plain import ATOMS, CALL_IMMUTABLE_TYPES, IMMUTABLE_TYPES, KEPT_BYTES_MAX

__all__ = ["dump_results", "freeze", "pack", "transpose"]


def all_immutable(values: Collection[Any]) -> bool:
    """Return True if all arguments are certainly immutable: numbers, strings, bytes, and tuples of these.

    Examples:
        >>> all_immutable([1, "two", (3.0, (None, b"5"))]), all_immutable([1, ([],)])
        (True, False)
    """
    plain.array_type()  # adds numpy's scalars to the immutable types
    while True:
        kinds = types_in(values)
        if not kinds - {tuple} <= CALL_IMMUTABLE_TYPES:
            return False
        if tuple not in kinds:
            return True
        values = [value for some in values if type(some) is tuple for value in some]


# ---- arguments ----


def transpose(columns: Sequence[list[Any]]) -> PackedColumns | None:
    """Return the columns as they travel fastest, if the values of each are of one shape. They contain no futures.

    Args:
        columns: The arguments of the calls: a sequence for each parameter, all of the same length.

    Examples:
        >>> [list(column) for column in transpose([[1, 2, 3, 4], [[1], [2], [], [4]]])]
        [[1, 2, 3, 4], [[1], [2], [], [4]]]
        >>> transpose([[1, 2, 3, 4], [{5}, {6}, {7}, {8}]])
    """
    are_atoms = [all_types_in(column, ATOMS) for column in columns]
    if all(are_atoms):
        return PackedColumns(columns)
    count = len(columns[0])
    if count < COPIES_MIN:
        return None
    transposer = _transposer(False, count)
    packed: list[Any] = []
    changeable: list[list[Any]] = []
    for column, is_atoms in zip(columns, are_atoms, strict=True):
        form = column if is_atoms else transposer.form_of(column)
        if form is None:
            return None
        if type(form) is tuple:
            changeable.append(column)
            form = Records(form, count)
        packed.append(form)
    if any(len(set(map(id, row))) < len(row) for row in zip(*changeable, strict=True) if len(row) > 1):
        return None  # it must arrive as one
    return PackedColumns(packed if not transposer.kinds else (Rows(packed, tuple(transposer.kinds)),))


def pack(
    columns: Sequence[list[Any]], files_by_name: bool, *, for_now: bool = False, in_full: bool = False
) -> PackedColumns:
    """Return the columns in a form in which no two rows share an object that can change.

    Args:
        columns: The arguments of the calls: a sequence for each parameter, all of the same length.
        files_by_name: The workers see the files of this process (see `payload.dump_call`). Not with in_full: files may change.
        for_now: They are pickled at once: there is no need for copies of objects that no two rows share.
        in_full: Arrays of any size are copied, so that no later change reaches them.

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
    copier = argument_copier(len(columns[0]))
    may_share = for_now and not in_full and copier.are_separate(changeable)
    copies = changeable if may_share else copier.copy_rows(changeable)
    keep = _Keeper(in_full)
    if copies is not None:
        waiting = iter(copies)
        packed = [
            _as_column(column, types_in(column))
            if immutable
            else _as_column(copied := next(waiting), types_in(copied), keep)
            for column, immutable in zip(columns, are_immutable, strict=True)
        ]
        return PackedColumns(packed if not copier.kinds else (Rows(packed, tuple(copier.kinds)),))
    rows = list(zip(*columns, strict=True))
    files_by_name = files_by_name and not in_full
    return PackedColumns((Entries([_entry(keep.parts(payload.dump_row(row, files_by_name))) for row in rows], rows),))


class _Keeper:
    """Copies the arrays of the user's that may change before they are sent, and each only once.

    Args:
        in_full: Arrays of any size are copied, not only those of at most `KEPT_BYTES_MAX`.
    """

    def __init__(self, in_full: bool) -> None:
        self._bytes_max = sys.maxsize if in_full else KEPT_BYTES_MAX
        self._copies: dict[Any, tuple[Any, Any]] = {}  # what was copied, which stays alive, and the copy

    def array(self, array: Any) -> Any:
        """Return a copy of an array, or the array if it is too large."""
        if array.nbytes <= KEPT_BYTES_MAX:
            return copied_array(array, False)
        if array.nbytes > self._bytes_max:
            return array
        return self._once(id(array), array, partial(copied_array, array, False))

    def parts(self, parts: Sequence[Any]) -> Sequence[Any]:
        """Return a pickle with copies of its buffers, or with the buffers if they are too large."""
        if len(parts) == 1 or sum(memoryview(part).nbytes for part in parts) > self._bytes_max:
            return parts
        return [parts[0], *map(self._buffer, parts[1:])]

    def _buffer(self, part: memoryview) -> Any:
        if type(part.obj) is bytes:
            return part
        return self._once(plain.address_of(part), part, lambda: bytearray(part))

    def _once(self, place: Any, value: Any, copy: Callable[[], Any]) -> Any:
        if place is None:
            return copy()
        if place not in self._copies:
            self._copies[place] = value, copy()
        return self._copies[place][1]


def _entry(parts: Sequence[Any]) -> Entry:
    pickled, *views = parts
    return (pickled, *map(pickle.PickleBuffer, views)) if views else pickled


# ---- results ----


class _PickledResult:
    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry


def freeze(result: Any) -> Any:
    """Return a result that has no copy in a form for `dump_results` that later changes to the result do not affect.

    Raises:
        SerializationError: The result cannot be pickled.
    """
    pickled, *views = payload.dump(result, "the result")
    return _PickledResult((pickled, *map(bytes, views)) if views else pickled)


def dump_results(results: list[Any], error: list[Any] | None, has_instances: bool = False) -> list[plain.Part]:
    """Pickle (results, error), with the results as a list or as `Entries`.

    Args:
        results: Immutable values, copies, and what `freeze` has returned.
        error: The parts of an exception (see `exceptions.py`), or None.
        has_instances: There are instances of classes among the copies.
    """
    kinds = types_in(results)
    if kinds <= ATOMS:
        return plain.dump_plain((results, error))
    if _PickledResult not in kinds:
        batch = _as_records(results, kinds) or _as_column(results, kinds), error
        return payload.dump_copies(batch) if has_instances else plain.dump_plain(batch)
    entries = [one.entry if type(one) is _PickledResult else _entry(payload.dump(one)) for one in results]
    return plain.dump_plain((Entries(entries), error))


def _as_records(results: list[Any], kinds: set[type]) -> Records | None:
    """Return containers or instances of one shape as columns of what they consist of."""
    if len(kinds) > 1 or len(results) < COPIES_MIN or not kinds.isdisjoint(IMMUTABLE_TYPES):
        return None
    form = _transposer(True, len(results)).form_of(results)
    return Records(form, len(results), are_results=True) if type(form) is tuple else None


# ---- both ----


def _transposer(is_result: bool, count: int) -> Transposer:
    plain.array_type()  # adds numpy's scalars to the immutable types
    return Transposer(IMMUTABLE_TYPES, partial(find_way, is_result, count >= COPIES_MIN), _copy_arrays, _pack_scalars)


def _pack_scalars(values: list[Any]) -> Any:
    return _as_column(values, types_in(values))


def _copy_arrays(arrays: list[Any]) -> ArrayColumn | list[Any] | None:
    """Return copies of small arrays; None if some are large, or more than data."""
    dtype = arrays[0].dtype
    if has_plain_data(arrays[0]) and all(
        (array.dtype is dtype and array.flags.c_contiguous and shared_place(array) is None) or has_plain_data(array)
        for array in arrays
    ):
        stacked = _stack(arrays)
        if stacked is not None:
            return ArrayColumn(stacked)
    copies = [copied_array(array, True) for array in arrays]
    return None if any(array is NotImplemented for array in copies) else copies


def _as_column(values: Sequence[Any], kinds: set[type], keep: _Keeper | None = None) -> Any:
    """Return values in the form that travels fastest.

    Args:
        values: Immutable values, copies of containers, and arrays.
        kinds: The types of the values.
        keep: The arrays are the user's own. It copies them.
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
    return [_wrap(value, keep) if type(value) is array_type else value for value in values]


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


def _wrap(array: Any, keep: _Keeper | None) -> Any:
    array = array if keep is None else keep.array(array)
    wrapped = plain.wrap_large((array,))
    return array if wrapped is None else wrapped[0]
