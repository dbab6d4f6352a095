"""Tell which values plain pickle is right for, and pickle them.

    is_plain(value)      numbers, strings, small containers and numeric arrays: they refer to no function or class
    wrap_large(values)   arrays and long bytes in the form that travels fastest
    dump_plain(value)    a pickle and its out-of-band buffers

numpy's types count once numpy has been imported; nothing here imports it.
"""

from __future__ import annotations

import sys

from pympipool._core.array_opcodes import register_arrays, register_scalars
from pympipool._core.instances import IN_BAND_BELOW_BYTES, Buffers
from pympipool._core.plain_values import consists_of
from pympipool._core.shared_ranges import shared_place
from pympipool._util.cmodules import pickle
from pympipool.serialization import ARRAY_NUMBER, SCALAR_NUMBER, _unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

__all__ = [
    "ATOMS",
    "CALL_IMMUTABLE_TYPES",
    "CALL_SCALARS",
    "IMMUTABLE_TYPES",
    "KEPT_BYTES_MAX",
    "OUT_OF_BAND_BYTES_MIN",
    "PROTOCOL",
    "SCALARS",
    "STAND_INS",
    "Part",
    "Pickled",
    "address_of",
    "array_type",
    "dump_plain",
    "is_plain",
    "numpy_types",
    "wrap_large",
]

Part: TypeAlias = "bytes | memoryview"

PROTOCOL = 5

_PLAIN_ITEMS_MAX = 64
"""Most items, in all containers together, that `is_plain` examines. cloudpickle's pickler is faster for more items;
its start takes 2 us. Only while it is not imported yet, which takes 15 ms, longer lists of numbers are examined too."""

OUT_OF_BAND_BYTES_MIN = 128 * 1024
"""Objects of type bytes of at least this size travel out of band if they are an argument, or the whole result.

Measured for the way to one worker and back, in band and out of band: 100 kB take 32 and 40 us; 200 kB take 54 to 260
and 60 us, because their memory is returned to the system and allocated again; 1 MB take 1350 and 190 us."""

KEPT_BYTES_MAX = 1 << 16
"""Size of the parts of a call that do not change after `submit`, whatever becomes of the arguments; as `COPY_LIMIT` of
`_core/calls.pxd`, up to which calls are copied when they are queued."""

_builtin_scalars = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})

SCALARS: set[type] = set(_builtin_scalars)
"""Types whose values refer to no other object. `_register_numpy` adds numpy's types once numpy has been imported."""

ATOMS: frozenset[type] = _builtin_scalars - {bytearray}
"""Python's own immutable types whose values refer to no other object."""

IMMUTABLE_TYPES: set[type] = set(ATOMS)
"""The types in `SCALARS` whose values cannot be changed. Read-only for other modules; grows with `SCALARS`."""

_NUMBER_CODES = "?bBhHiIlLqQpPefdgFDG"
"""The codes of numpy's own types of numbers. What `numpy.dtype` returns for them is one object each, in native byte order."""

CALL_SCALARS: set[type] = set(SCALARS)
"""`SCALARS`, and the handles of shared objects once there are any. In a call, such a handle refers to no other object; in a result,
plain pickle would put the object in its place."""

CALL_IMMUTABLE_TYPES: set[type] = set(IMMUTABLE_TYPES)
"""The same with `IMMUTABLE_TYPES`."""

_numpy_types: set[type] = set()
"""The types of numpy among these, and `numpy.ndarray`, once numpy has been imported."""

_array_type: type | None = None
"""`numpy.ndarray`, once numpy has been imported."""


class Pickled:
    """A pickled value that takes the value's place in arguments or results. Loading it returns the value.

    For results that are only passed to another call: they are not unpickled on the way.

    Args:
        parts: As from `dump`. They are stored without a copy.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, tuple(pickle.PickleBuffer(part) for part in self.parts)

    def __hash__(self) -> int:
        """Return the value's hash: as a key, it must be hashable where it will be loaded."""
        return hash(_unpack(*self.parts))


STAND_INS: set[type] = {Pickled}
"""Types of objects that stand for values, and that plain pickle is right for. `inputs.py` adds its own."""


class _OutOfBandBytes:
    """A bytes object that travels out of band. Loading it returns the bytes.

    Without this, pickling copies the bytes into the pickle and unpickling copies them out of it, each time into newly
    allocated memory. Not for a bytearray: its owner may write into it while the call waits.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return bytes, (pickle.PickleBuffer(self.value),)


def dump_plain(value: object) -> list[Part]:
    """Pickle a value for which plain pickle is right."""
    buffers: list[memoryview] = []
    return [pickle.dumps(value, PROTOCOL, buffer_callback=Buffers(buffers)), *buffers]


def wrap_large(values: tuple[Any, ...], files_by_name: bool = False, is_result: bool = False) -> tuple[Any, ...] | None:
    """Return the values with arrays and long bytes replaced by the form that travels fastest.

    Return None if there are other values than these and scalars. Such a value could contain one of the arrays once
    more, and then both must arrive as the same object. Arrays of numbers come here only if `dump_plain_value` does not know them.
    """
    wrapped: list[Any] = []
    large: dict[int, Any] = {}  # by id, so that a repeated value arrives as one object
    for value in values:
        kind = type(value)
        if kind not in SCALARS:
            if _array_type is None or not issubclass(kind, _array_type):
                return None
            if id(value) not in large:
                from pympipool.serialization.arrays import wrap

                large[id(value)] = wrap(value, files_by_name, is_result)
            if large[id(value)] is None:
                return None
            wrapped.append(large[id(value)])
        elif kind is bytes and len(value) >= OUT_OF_BAND_BYTES_MIN:
            wrapped.append(large.setdefault(id(value), _OutOfBandBytes(value)))
        else:
            wrapped.append(value)
    return tuple(wrapped)


def is_plain(value: object) -> bool:
    """Return True if plain pickle is certainly right for the value: it refers to no function and no class."""
    if consists_of(value, SCALARS):
        return True
    waiting: list[Any] = [value]
    for item in waiting:  # the loop appends to the list
        kind = type(item)
        if kind in SCALARS or kind in STAND_INS:
            continue
        if kind is tuple or kind is list or kind is dict or kind is set or kind is frozenset:
            if len(item) + len(waiting) > _PLAIN_ITEMS_MAX:
                if (
                    kind is dict
                    or "pympipool.serialization.by_value" in sys.modules
                    or not SCALARS.issuperset(map(type, item))
                ):
                    return False
                continue
            waiting += item
            if kind is dict:
                waiting += item.values()
        elif kind is _array_type:
            dtype = item.dtype
            if dtype.isbuiltin != 1 or dtype.hasobject or shared_place(item) is not None:
                return False
            if item.nbytes >= IN_BAND_BELOW_BYTES and (dtype.kind in "mM" or not item.flags.contiguous):
                return False  # numpy's own pickle copies these arrays
        elif _array_type is None and _register_numpy():
            return is_plain(value)
        else:
            return False
    return True


def array_type() -> type | None:
    """Return `numpy.ndarray`; None if numpy has not been imported yet."""
    if _array_type is None:
        _register_numpy()
    return _array_type


def address_of(part: memoryview) -> tuple[int, int] | None:
    """Return address and size of memory; None if numpy has not been imported yet."""
    if array_type() is None:
        return None
    numpy = sys.modules["numpy"]
    return int(numpy.frombuffer(part, "B").__array_interface__["data"][0]), part.nbytes


def numpy_types() -> set[type]:
    """Return the types of arrays and of numpy's scalars; none if numpy has not been imported yet."""
    return _numpy_types


def _register_numpy() -> bool:
    """Add numpy's types to the known types; return False if numpy has not been imported yet."""
    global _array_type
    numpy = sys.modules.get("numpy")
    if numpy is None or not (hasattr(numpy, "ndarray") and hasattr(numpy, "complex128")):  # or only half imported
        return False
    names = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
    SCALARS.update(getattr(numpy, name) for name in names.split())
    IMMUTABLE_TYPES.update(SCALARS - {bytearray})
    CALL_SCALARS.update(SCALARS)
    CALL_IMMUTABLE_TYPES.update(IMMUTABLE_TYPES)
    _array_type = numpy.ndarray
    _numpy_types.update(SCALARS - _builtin_scalars, {numpy.ndarray})
    dtypes = [numpy.dtype(code) for code in _NUMBER_CODES]
    register_arrays(numpy, dtypes, ARRAY_NUMBER)
    kinds = {dtype.type: dtype.str if numpy.dtype(dtype.str).type is dtype.type else dtype.char for dtype in dtypes}
    register_scalars(kinds | {numpy.datetime64: "", numpy.timedelta64: ""}, SCALAR_NUMBER)
    return True
