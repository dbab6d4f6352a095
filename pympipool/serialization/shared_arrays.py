"""Arrays in shared memory, which calls write where they lie.

    master                                                    worker
    shared_array(shape, dtype) ─► numpy.ndarray in it
    a call with it, or with a view of it ── key, place ────►  load_view(key, place) ─► an array in the same memory
    a result with a view of it, or with one that is new  ◄──  the master keeps its memory for the future of the call

An array is recognized by its address (`shared_place`), so it does not matter which library has made the view. What numpy computes
from it lies elsewhere and is an ordinary array.

The memory is a shared object (see `shared.py`): it has an owner, a key, and lives as long as arrays in it and calls that were
submitted with one. This module is imported with the first shared array.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pympipool import serialization
from pympipool._core.array_opcodes import register_views
from pympipool._core.shared_memory import ArrayMemory, Mapping
from pympipool._core.shared_ranges import shared_place
from pympipool._util.formatting import format_bytes
from pympipool._util.reprs import safe_repr
from pympipool.serialization import shared
from pympipool.serialization.arrays import ReducedArray, reduce_array

__all__ = ["load_view", "reduce_view", "shared_array"]

register_views(serialization.VIEW_NUMBER)

PATTERN_BYTES = 1 << 20
"""About the size of what is written into new memory again and again."""

POPULATED_BYTES_MAX = 4 << 20
"""The largest view whose pages are mapped when a call gets it. A call may use little of a larger one."""

NUMBERS = "?bBhHiIlLqQefdgFDG"
"""The codes of dtypes (`dtype.char`) that their `str` describes completely."""


def shared_array(shape: int | Sequence[int], dtype: Any = float, fill: Any = None) -> np.ndarray[Any, Any]:
    """Make a numpy array that all calls, workers and ranks of this host can write, without a copy.

    A call that gets the array, or a view of it such as `array[3]` or `array[:, 1:].T`, gets a view of the same memory. What it
    writes, the script and all other calls see. What numpy computes from the array, copies of it, and pickles made by others are
    ordinary arrays. Nothing is synchronized: two calls must not write the same items.

    Args:
        shape: As for `numpy.zeros`.
        dtype: Any dtype without Python objects.
        fill: The value of all items, or an array of them that can be broadcast to the shape. None: zeros.

    Returns:
        The array. Its memory is released when neither it nor a view of it is left, and no call that was submitted with one.

    Raises:
        TypeError: Of dtype `object`, for example: its items are not in the memory of the array.
        ValueError: The shape is negative, or the dtype or the fill value does not fit.
        MemoryError: There is not enough memory for it.
        OSError: No file descriptor is free: each shared array takes one.

    Examples:
        >>> from pympipool import Executor, shared_array
        >>> def square(out, i):
        ...     out[i] = i * i
        >>> squares = shared_array(4, int)
        >>> with Executor(max_workers=2) as exe:
        ...     _ = list(exe.map(square, [squares] * 4, range(4)))
        >>> squares.tolist()
        [0, 1, 4, 9]
    """
    kind, lengths = np.dtype(dtype), _lengths(shape)
    if kind.hasobject:
        raise TypeError(
            f"dtype is {kind!r}: the items of a shared array are in its memory, so they cannot be Python objects"
        )
    if kind.subdtype is not None:
        lengths, kind = (*lengths, *kind.shape), kind.base
    if kind.itemsize == 0:  # as for numpy.zeros: strings without a length have one character
        kind = np.empty(0, kind).dtype
    value = None if fill is None else np.asarray(fill).astype(kind) if np.ndim(fill) else np.full((), fill, kind)
    size_bytes = math.prod(lengths) * kind.itemsize
    described = f"an array of shape {lengths} and dtype {kind}, {format_bytes(size_bytes)}"
    if size_bytes > sys.maxsize:
        raise MemoryError(f"no memory to share {described}. Make it smaller, or share parts of it one after the other")
    shared.check_memory(size_bytes)
    pattern = np.zeros(max(min(PATTERN_BYTES, size_bytes) // max(kind.itemsize, 1), 1), kind)
    if value is not None and not value.ndim:
        pattern[:] = value
    try:
        shared_object = shared.own(Mapping.fill(size_bytes, pattern.tobytes()))
    except OSError as error:
        raise shared.no_room(error, described) from error
    memory: Any = ArrayMemory(shared_object, shared_object.mapping)
    array: np.ndarray[Any, Any] = np.ndarray(lengths, kind, memory)
    if value is not None and value.ndim:
        array[...] = value
    return array


def _lengths(shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple."""
    lengths: tuple[int, ...]
    try:
        lengths = (operator.index(shape),)
    except TypeError:
        lengths = tuple(map(operator.index, shape))
    if min(lengths, default=0) < 0:
        raise ValueError(f"shape is {safe_repr(shape)}: lengths must not be negative")
    return lengths


def reduce_view(array: Any, is_result: bool = False) -> tuple[Any, ...] | None:
    """Reduce an array in shared memory to its place there; return None for any other, and if it has to be copied.

    Args:
        array: A `numpy.ndarray`, or an instance of a subclass that is pickled as numpy's own arrays are.
        is_result: It belongs to a result of a call. The master keeps the memory, if it can.

    Raises:
        OSError: The master has no descriptor free.
    """
    key, offset = shared_place(array) or (b"", 0)
    found = shared.find(key)
    if found is None:
        return None
    if is_result and serialization.master[0] is not None and not shared.hand_over(found):
        is_new = found.owner is not None and not found.owner.handed_over
        return (share_copy, (ReducedArray(reduce_array(array, copies_shared=True)),)) if is_new else None
    shared.note_part(found)
    dtype = array.dtype
    kind = dtype.str if dtype.char in NUMBERS and dtype.metadata is None else dtype
    arguments = key, offset, array.shape, array.strides, kind, array.flags.writeable
    return load_view, arguments if type(array) is np.ndarray else (*arguments, type(array))


def share_copy(array: Any) -> Any:
    """Return a shared array with the contents of an array: a loader, for what a call on another host has made."""
    return shared_array(array.shape, array.dtype, array)


def load_view(
    key: bytes,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: Any,
    is_writable: bool,
    kind: type = np.ndarray,
) -> Any:
    """Return an array in a shared array: a loader, which pickles name by its number.

    Args:
        key: That of the shared array.
        offset: The place of the first item in it, bytes.
        shape, strides, dtype: Of the array.
        is_writable: False: it is read-only.
        kind: Its type.

    Raises:
        SerializationError: The shared array has been released, or this process cannot get it.
    """
    found = shared.load(key)
    memory: Any = ArrayMemory(found, found.mapping)
    array: Any = np.ndarray.__new__(kind, shape, dtype, memory, offset, strides)
    if array.nbytes <= POPULATED_BYTES_MAX:
        span = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True) if stride > 0)
        if span <= 2 * POPULATED_BYTES_MAX and min(strides, default=0) >= 0:
            found.mapping.populate(offset, offset + span + array.itemsize)
    if not is_writable:
        array.flags.writeable = False
    return array
