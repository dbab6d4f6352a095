"""Tell which objects can be copied in place of being pickled one by one (`_core/copies.pyx`).

    instances of a class ─► if they are their __dict__, no code of the class runs, and the class is known to all or has a definition
    numpy.ndarray ─► if it is its data and a dtype of numpy's own

A column of copies needs one pickle, in which the class, and the names of its attributes, are once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pympipool._core.copies import Copier
from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.separation import COPY_ARRAY, COPY_DICT, NO_COPY
from pympipool._core.shared_ranges import shared_place
from pympipool.serialization import plain
from pympipool.serialization.plain import CALL_IMMUTABLE_TYPES, IMMUTABLE_TYPES

__all__ = ["COPIES_MIN", "argument_copier", "copied_array", "find_way", "has_plain_data", "result_copier"]

COPIES_MIN = 4
"""Smallest number of calls for which a class gets a definition at once."""


def argument_copier(count: int) -> Copier:
    """Return what copies the arguments of so many calls."""
    return Copier(CALL_IMMUTABLE_TYPES, partial(find_way, False, count >= COPIES_MIN), _array_of_argument)


def result_copier(count: int) -> Copier:
    """Return what copies the results of so many calls."""
    return Copier(IMMUTABLE_TYPES, partial(find_way, True, count >= COPIES_MIN), copied_array)


def copied_array(array: Any, is_nested: bool) -> Any:
    """Return a copy of an array; NotImplemented if it is more than data, or is a large one inside of another value.

    A large array travels faster out of band.
    """
    if not has_plain_data(array) or (is_nested and array.nbytes >= IN_BAND_BELOW_BYTES):
        return NotImplemented
    copied = array.copy()
    copied.flags.writeable = array.flags.writeable
    return copied


def _array_of_argument(array: Any, is_nested: bool) -> Any:
    """Return as `copied_array`, but the array itself if it is the argument: arrays are copied when all are known."""
    if is_nested:
        return copied_array(array, True)
    return array if has_plain_data(array) else NotImplemented


def has_plain_data(array: Any) -> bool:
    """Return True if an array is contiguous and consists of its data and a dtype of numpy's own, without objects.

    The data of an array in shared memory are not its own.
    """
    dtype = array.dtype
    if shared_place(array) is not None:
        return False
    return (
        array.flags.c_contiguous and array.size > 0 and not dtype.hasobject and dtype.kind in "biufcSUV"
        and 0 <= dtype.num <= 23 and dtype.metadata is None  # 23: the last of numpy's own numbers
    )  # fmt: skip


def find_way(is_result: bool, defines: bool, kind: type) -> int:
    """Return how instances of a type are copied.

    Args:
        is_result: They belong to results.
        defines: A class that is seen for the first time gets a definition.
    """
    if kind is plain.array_type():
        return COPY_ARRAY
    if kind.__module__ == "builtins":
        return NO_COPY
    from pympipool.serialization import by_value

    try:
        return COPY_DICT if by_value.is_inert(kind, is_result, defines) else NO_COPY
    except Exception:  # code of a metaclass
        return NO_COPY
