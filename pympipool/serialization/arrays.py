"""Pickle arrays of numpy that its own pickle copies several times, with their data out of band.

    memory: a contiguous array of any type without objects -> buffer, dtype, shape -> the same type of array
    a file: numpy.memmap, as an argument                   -> name of the file, position -> a mapping of the same bytes
    a shared array, or a view of it                        -> its place in shared memory -> a view of the same memory

numpy pickles out of band only arrays that support the buffer protocol and are no instance of a subclass. datetime64 and
timedelta64, recarrays, masked arrays, memmaps and arrays of the user's subclasses are copied into the pickle, which takes ten
times longer.

This module is imported when the first such array is pickled or unpickled; numpy is imported then.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pickle import PickleBuffer
from typing import Any, NamedTuple

import numpy as np
from numpy.ma.core import MaskedArray

from pympipool._core.array_opcodes import load_array
from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.shared_ranges import shared_place

BY_NAME_BYTES_MIN = 1024 * 1024
"""Memmaps of at least this size travel as a file name. Measured on one worker: a copy of 1 MB takes 190 us; finding the file
and mapping it takes 60 to 150 us."""

_NUMPY_TYPES = (np.ndarray, np.memmap, np.recarray, np.matrix, MaskedArray)

_KINDS = "biufcMmSUV"
"""The kinds of dtypes (`dtype.kind`) whose values lie in the memory of the array."""

_NUMBERS = "biufc"
"""The kinds of dtypes that their `str` describes completely."""

_NUMBER_MAX = 23
"""The largest `dtype.num` of numpy's own dtypes. Others may refer to memory outside of the array."""

_PICKLE_METHODS = ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__")


class ReducedArray:
    """An array that is pickled as `reduce_array` says. Loading it returns the array."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def wrap(array: Any, files_by_name: bool, is_result: bool = False) -> ReducedArray | None:
    """Return an array in a form that plain pickle pickles out of band; None if it may refer to functions or classes.

    Args:
        array: The array.
        files_by_name: A large `numpy.memmap` travels as a file name.
        is_result: It belongs to a result.

    Examples:
        >>> import pickle
        >>> pickle.loads(pickle.dumps(wrap(np.array(["2020-02-03"], "M8[D]"), False), 5))
        array(['2020-02-03'], dtype='datetime64[D]')
    """
    if type(array) not in _NUMPY_TYPES or array.dtype.hasobject:
        return None
    if type(array) is MaskedArray and not _has_simple_data(array):
        return None
    return ReducedArray(reduce_array_or_file(array) if files_by_name else reduce_array(array, is_result=is_result))


def has_plain_pickle(kind: type) -> bool:
    """Return True if arrays of this type are pickled as numpy does it for its own, so that `reduce_array` may be used."""
    if kind is MaskedArray:
        return True
    return all(getattr(kind, name, None) is getattr(np.ndarray, name, None) for name in _PICKLE_METHODS)


def reduce_array_or_file(array: Any) -> Any:
    """Reduce an array to what pickle needs to rebuild it; a memmap to its file, if there is one."""
    if type(array) is np.memmap and array.nbytes >= BY_NAME_BYTES_MIN:
        reduced = _reduce_file(array)
        if reduced is not None:
            return reduced
    return reduce_array(array)


def reduce_array(array: Any, *, in_band: bool = True, is_result: bool = False, copies_shared: bool = False) -> Any:
    """Reduce an array to what pickle needs to rebuild it: its data as an out-of-band buffer, or its place in a shared array.

    Args:
        in_band: The data of a small array may stay in the pickle.
        is_result: The array belongs to a result.
        copies_shared: The data of shared arrays count as those of any other.
    """
    kind = type(array)
    if kind is not MaskedArray and not copies_shared and shared_place(array) is not None:
        from pympipool.serialization.shared_arrays import reduce_view

        reduced = reduce_view(array, is_result)
        if reduced is not None:
            return reduced
    if kind is np.ndarray:
        reduced = _reduce_simple(array, in_band)
        if reduced is not None:
            return reduced
    if kind is MaskedArray and _has_simple_data(array):
        mask = None if array._mask is np.ma.nomask else array._mask
        data: Any = array.view(np.ndarray)
        if mask is not None and shared_place(mask) is not None:
            mask = ReducedArray(reduce_array(mask, in_band=in_band, is_result=is_result, copies_shared=copies_shared))
        return _masked_array, (
            ReducedArray(reduce_array(data, in_band=in_band, is_result=is_result, copies_shared=copies_shared)),
            mask,
            array._fill_value,
            array._hardmask,
        )
    dtype = array.dtype
    is_simple = dtype.kind in _KINDS and 0 <= dtype.num <= _NUMBER_MAX and not dtype.hasobject
    if not is_simple or array.size == 0 or dtype.itemsize == 0 or kind is MaskedArray:
        return array.__reduce_ex__(5)
    plain = array.view(np.ndarray)
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    if is_fortran:
        plain = plain.T
    elif not array.flags.c_contiguous:
        is_writable = plain.flags.writeable
        plain = plain.copy()
        plain.flags.writeable = is_writable
    data = plain.reshape(-1).view(np.uint8)
    kind_and_order = () if kind is np.ndarray and not is_fortran else (kind, "F" if is_fortran else "C")
    return _array_of, (PickleBuffer(data), dtype, array.shape, *kind_and_order)


def _reduce_simple(array: Any, in_band: bool) -> Any:
    """Reduce an array of numbers in a third of the time; return None for others.

    Most of the time would go to the dtype, which numpy pickles anew for each array.
    """
    dtype = array.dtype
    if dtype.hasobject:
        return NotImplemented  # by numpy
    flags = array.flags
    if not (dtype.kind in _NUMBERS and dtype.num <= _NUMBER_MAX and flags.c_contiguous and dtype.metadata is None):
        return None
    if not array.size:
        return None
    # a buffer costs 1 us more; what is read-only stays so with it
    stays = in_band and array.nbytes < IN_BAND_BELOW_BYTES and flags.writeable
    data = bytearray(array.data) if stays else PickleBuffer(array)
    return (load_array, (data, dtype.str) if array.ndim == 1 else (data, dtype.str, array.shape))


def _array_of(buffer: Any, dtype: Any, shape: tuple[int, ...], kind: type = np.ndarray, order: Any = "C") -> Any:
    """Return an array in the memory of the buffer."""
    return np.ndarray.__new__(kind, shape, dtype, buffer, 0, None, order)


def _has_simple_data(array: Any) -> bool:
    """Return True if a masked array consists of nothing but an array, a mask and a fill value."""
    return array._baseclass is np.ndarray and not array.dtype.hasobject and not array._optinfo


def _masked_array(data: Any, mask: Any, fill_value: Any, is_hard: bool) -> Any:
    """Return a masked array of these parts, without copying them."""
    array: Any = data.view(MaskedArray)
    if mask is not None:
        array._mask = mask
        array._sharedmask = False
    array._fill_value = fill_value
    array._hardmask = is_hard
    return array


# ---- files ----


class _Region(NamedTuple):
    """Memory in which a file is mapped: its addresses, the position of its first byte in the file, and the file's identity."""

    begin: int
    end: int
    offset: int
    identity: tuple[int, int]


_regions: weakref.WeakKeyDictionary[mmap.mmap, _Region] = weakref.WeakKeyDictionary()
"""The regions of the mappings that were looked up already; a mapping does not change its file."""


def _reduce_file(array: Any) -> tuple[Any, ...] | None:
    """Reduce a memmap to the name and the part of its file; None if the file does not certainly have these bytes.

    A call gets its arguments as copies: no other process sees what it writes into them. So a file that the master has mapped
    for writing is mapped copy-on-write in the worker. Changes in a memmap of mode "c" are in no file.
    """
    mapping, name = array._mmap, array.filename
    if type(mapping) is not mmap.mmap or name is None or array.mode not in {"r", "r+", "w+"}:
        return None
    low, high = np.lib.array_utils.byte_bounds(array) if hasattr(np.lib, "array_utils") else np.byte_bounds(array)  # type: ignore[attr-defined]
    region = _regions.get(mapping) or _find_region(low, name)
    if region is None or not region.begin <= low < high <= region.end:
        return None
    try:
        status = os.stat(name)
    except OSError:
        return None
    if (status.st_dev, status.st_ino) != region.identity:
        return None  # another file of this name
    _regions[mapping] = region
    first = array.__array_interface__["data"][0]
    mode = "c" if array.flags.writeable else "r"
    place = region.offset + low - region.begin
    return _array_in_file, (
        name, region.identity, mode, place, high - low, first - low, array.dtype, array.shape, array.strides
    )  # fmt: skip


def _find_region(address: int, name: str | os.PathLike[str]) -> _Region | None:
    """Return the region that contains an address, if it shows a file that still has this name; only on Linux."""
    try:
        identity = os.stat(name)
        with open("/proc/self/maps", "rb") as lines:
            for line in lines:
                begin, _, end = line[: line.index(b" ")].partition(b"-")
                if int(begin, 16) <= address < int(end, 16):
                    break
            else:
                return None
    except OSError:
        return None
    fields = line.rstrip(b"\n").split(None, 5)
    # a deleted or replaced file has the suffix " (deleted)"; "s" marks memory that is shared with the file
    if len(fields) < 6 or fields[1][3:4] != b"s" or fields[5] != os.fsencode(os.path.realpath(name)):
        return None
    return _Region(int(begin, 16), int(end, 16), int(fields[2], 16), (identity.st_dev, identity.st_ino))


def _array_in_file(
    name: str | os.PathLike[str],
    identity: tuple[int, int],
    mode: str,
    place: int,
    size: int,
    first: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Any:
    """Return a memmap of a part of a file.

    Args:
        name: Path of the file.
        identity: Its device and inode.
        mode: As for `numpy.memmap`.
        place: Position in the file.
        size: Number of bytes.
        first: Position of the array's first item in these bytes.
        dtype: As for `numpy.ndarray`, and so are shape and strides.

    Raises:
        OSError: The file was deleted, replaced or cut.
    """
    try:
        status = os.stat(name)
    except OSError:
        status = None
    if status is None or (status.st_dev, status.st_ino) != identity or status.st_size < place + size:
        raise OSError(
            f"the file {os.fspath(name)!r} of a numpy.memmap among the arguments was deleted, replaced or cut before the call"
            " began: keep it until the call has ended, or pass a copy, numpy.array(...)"
        )
    memory: Any = np.memmap(name, np.uint8, mode, place, size)  # type: ignore[call-overload]
    array: Any = np.ndarray.__new__(np.memmap, shape, dtype, memory, first, strides)
    array.__array_finalize__(memory)  # tells the array its mapping, file name and mode
    return array
