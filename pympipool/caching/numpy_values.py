"""Digest arrays, scalars and dtypes of numpy."""

from __future__ import annotations

from typing import Any

import numpy

from pympipool._core.shared_ranges import shared_place
from pympipool.caching.modules import add_module_named
from pympipool.caching.objects import add_reduced
from pympipool.caching.values import ADDERS, Hasher, UnhashableError

__all__ = ["add_any_array", "add_immutable"]

COPIED_BYTES = 1 << 16
"""Size of arrays up to which a copy takes less time than a view."""

LAST_NUMBER = 23
"""The largest number of a dtype that its `str` tells in full. Others have parameters, or are of other packages."""


def add_immutable(hasher: Hasher, value: Any) -> bool:
    """Add a scalar or a dtype; return False for a scalar that can be changed, or of a class that is derived from one of numpy's."""
    if isinstance(value, numpy.dtype):
        _add_dtype(hasher, value)
    elif value.dtype.type is type(value) and not issubclass(type(value), numpy.void):
        _add_array(hasher, value)
    else:
        return False
    return True


def add_any_array(hasher: Hasher, array: Any) -> None:
    """Add an array, or an instance of a subclass, that the hasher has not met before.

    Raises:
        UnhashableError: It is in shared memory, or has an object without digest.
    """
    if type(array) is numpy.ndarray:
        _add_array(hasher, array)
        return
    # calls get more than numpy pickles: whether it may be written, and of a masked array the mask itself
    hasher.add_all(b"array", (array.flags.writeable, getattr(array, "_hardmask", None), getattr(array, "_mask", None)))
    add_reduced(hasher, array)


def _add_array(hasher: Hasher, array: Any) -> None:
    """Add an array, or a scalar.

    Raises:
        UnhashableError: It is in shared memory, or has an object without digest.
    """
    if shared_place(array) is not None:
        raise UnhashableError("an array in shared memory, which calls may write")
    if not hasher.has_arrays:
        hasher.has_arrays = True
        add_module_named(hasher, "numpy")
    dtype, flags = array.dtype, array.flags
    is_fortran = flags.f_contiguous and not flags.c_contiguous
    description = (type(array).__name__, dtype.str, array.shape, is_fortran, flags.writeable)
    hasher.feed(b"array", repr(description).encode())
    if not _is_plain(dtype):
        _add_dtype(hasher, dtype)
    if dtype.hasobject:
        hasher.add_all(b"objects", array.ravel(order="A").tolist())
    elif array.nbytes < COPIED_BYTES or not (flags.c_contiguous or flags.f_contiguous):
        hasher.feed(b"data", array.tobytes(order="A"))
    else:
        hasher.feed(b"data", array.reshape(-1, order="A").view("u1").data)


def _add_dtype(hasher: Hasher, dtype: numpy.dtype[Any]) -> None:
    """Add a dtype; by what pickle stores of it if it has fields, metadata or parameters, or is of another package."""
    hasher.text(b"dtype", dtype.str)
    if not _is_plain(dtype):
        alone = Hasher(hasher.scope)  # equal ones have equal digests, whether or not they share parts
        add_reduced(alone, dtype)
        hasher.feed(b"parts", alone.digest())


def _is_plain(dtype: numpy.dtype[Any]) -> bool:
    return dtype.num <= LAST_NUMBER and dtype.names is None and dtype.subdtype is None and dtype.metadata is None


def _add_if_new(hasher: Hasher, array: numpy.ndarray[Any, Any]) -> None:
    if hasher.is_new(array):
        _add_array(hasher, array)


ADDERS[numpy.ndarray] = _add_if_new
