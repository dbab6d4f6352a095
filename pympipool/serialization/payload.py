"""Convert calls and results to bytes and back; for exceptions see `exceptions.py`.

    master                                                        worker
    dump_call(number, function, args, kwargs) -> parts ...... parts -> load() -> (args, kwargs)
    load() <- parts ......................................... parts <- dump(value)

The parts are those of one message: parts[0] is a pickle (protocol 5), the others are its out-of-band buffers in order,
as views of the caller's memory. Nothing large is copied here. If the caller changes the memory before it is sent, the
changed data arrives.

Which pickler is used? Plain pickle stores functions and classes of `__main__` by reference. A worker resolves them in
its own `__main__`, wrongly or not at all. cloudpickle stores them by value and is right for everything, but slow. So:

1. Values made of numbers, strings, small containers and numeric arrays refer to no function or class. They go through
   plain pickle, which takes a fraction of a microsecond.
2. Everything else goes through the pickler of `by_value`, which is cloudpickle's.

Every worker imports this module at its start. What only some workers need (cloudpickle, pympipool.errors) is imported
where it is used: it takes three times as long as all the rest.
"""

from __future__ import annotations

import os
import sys

from pympipool._core.instances import IN_BAND_BELOW_BYTES, OUT_OF_BAND_MAX, Buffers, definitions
from pympipool._util.cmodules import pickle
from pympipool._util.reprs import callable_name, safe_repr, summarize_error, type_name
from pympipool.serialization import CLASSES_MARK, _array, _unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final, Literal, TypeAlias

    from pympipool.errors import SerializationError

__all__ = [
    "BATCH",
    "IMMUTABLE_TYPES",
    "IN_BAND_BELOW_BYTES",
    "OUT_OF_BAND_BYTES_MIN",
    "OUT_OF_BAND_MAX",
    "PROTOCOL",
    "TRACED_BATCH",
    "BatchMarker",
    "PackedColumns",
    "Part",
    "Pickled",
    "array_type",
    "contains_classes",
    "dump",
    "dump_call",
    "dump_plain",
    "dump_row",
    "is_plain",
    "load",
    "numpy_types",
    "wrap_large",
]

Part: TypeAlias = "bytes | memoryview"

PROTOCOL = 5

BATCH: Final = None
"""Takes the place of the keyword arguments in a batch: many calls of one function, whose arguments are columns."""

TRACED_BATCH: Final = False
"""Takes the place of `BATCH` in a batch that a trace records."""

BatchMarker: TypeAlias = "Literal[False] | None"

DEFINE_IN_MODULE = "define it in a module"
"""The remedy for what can be pickled only by its name."""

_PLAIN_ITEMS_MAX = 64
"""Most items, in all containers together, that `is_plain` examines. cloudpickle's pickler is faster for more items;
its start takes 2 us. Only while it is not imported yet, which takes 15 ms, longer lists of numbers are examined too."""

_BY_VALUE = "pympipool.serialization.by_value"

OUT_OF_BAND_BYTES_MIN = 128 * 1024
"""Objects of type bytes of at least this size travel out of band if they are an argument, or the whole result.

Measured for the way to one worker and back, in band and out of band: 100 kB take 32 and 40 us; 200 kB take 54 to 260
and 60 us, because their memory is returned to the system and allocated again; 1 MB take 1350 and 190 us."""

_builtin_scalars = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})

_scalars: set[type] = set(_builtin_scalars)
"""Types whose values refer to no other object. `_register_numpy` adds numpy's types once numpy has been imported."""

IMMUTABLE_TYPES: set[type] = _scalars - {bytearray}
"""The types in `_scalars` whose values cannot be changed. Read-only for other modules; grows with `_scalars`."""

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


class PackedColumns(tuple["Any", ...]):
    """The arguments of a batch as `columns.pack` returns them: plain pickle is right for all of them."""

    __slots__ = ()

    def cut(self, begin: int, end: int) -> PackedColumns:
        """Return the arguments of the calls from number begin to before number end."""
        return PackedColumns(column[begin:end] for column in self)


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


class _ArrayPayload:
    """A contiguous numeric array. Loading it returns the array.

    numpy's own pickle has more opcodes for the dtype of an array alone than this one has in total, and each of them is
    resolved when it is loaded. That takes twice as long.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        array = self.array
        shape = () if array.ndim == 1 else (array.shape,)
        return _array, (pickle.PickleBuffer(array), array.dtype.str, *shape)


def dump(value: Any, what: str = "the value") -> list[Part]:
    """Pickle a result.

    Args:
        value: Any value that cloudpickle can pickle.
        what: A description of the value for the error message, for example "the result of solve()".

    Returns:
        The pickle, then its out-of-band buffers as one-dimensional views of bytes: at most `OUT_OF_BAND_MAX`, each of
        at least `IN_BAND_BELOW_BYTES`. The views show the memory of the value itself.

    Raises:
        SerializationError: The value cannot be pickled. The message names the value, the reason and the remedy.

    Examples:
        >>> load(dump([1, "two", lambda x: x + 3]))[2](1)
        4
    """
    kind = type(value)
    if kind in _scalars and not (kind is bytes and len(value) >= OUT_OF_BAND_BYTES_MIN):
        return [pickle.dumps(value, PROTOCOL)]
    try:
        if id(kind) in definitions:
            return _dump_by_value(value, True)
        wrapped = wrap_large(value if kind is tuple else (value,))
        if wrapped is None:
            return _dump(value, is_result=True)
        return dump_plain(wrapped if kind is tuple else wrapped[0])
    except MemoryError as error:
        raise MemoryError(f"no memory to pickle {what}") from error
    except Exception as error:
        raise _dump_error(what, value, error) from error


def dump_call(
    number: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | BatchMarker,
    files_by_name: bool = False,
) -> list[Part]:
    """Pickle a call.

    Args:
        number: The function's number if the function is sent to the worker separately, else 0.
        function: The function; it is part of the pickle only if number is 0.
        args: Positional arguments; the columns of arguments for a batch.
        kwargs: Keyword arguments; `BATCH` or `TRACED_BATCH` for a batch.
        files_by_name: The worker sees the files of this process: large `numpy.memmap` objects travel as file names.

    Returns:
        Parts as from `dump`, of (args, kwargs), or for number 0 of (function, args, kwargs).

    Raises:
        SerializationError: An argument, or the function, cannot be pickled. The message names which, the reason and
            the remedy.
    """
    kind: type | None = None
    if number and not kwargs:
        for value in args:
            kind = type(value)
            if kind not in _scalars or (kind is bytes and len(value) >= OUT_OF_BAND_BYTES_MIN):
                break
        else:
            return [pickle.dumps((args, kwargs), PROTOCOL)]
    if type(args) is PackedColumns:
        return _dump_batch(number, function, args, kwargs)
    call = (args, kwargs) if number else (function, args, kwargs)
    try:
        if id(kind) in definitions:
            return _dump_by_value(call, False, files_by_name)
        wrapped = wrap_large(args, files_by_name) if number and not kwargs else None
        return _dump(call, files_by_name=files_by_name) if wrapped is None else dump_plain((wrapped, kwargs))
    except MemoryError as error:
        raise MemoryError(f"no memory to pickle the arguments of {callable_name(function)}()") from error
    except Exception as error:
        what, value = _find_unpicklable(function, args, kwargs or {})
        raise _dump_error(what, value, error) from error


def _dump_batch(number: int, function: Callable[..., Any], columns: PackedColumns, marker: Any) -> list[Part]:
    """Pickle a batch as `dump_call` does."""
    if number:
        return dump_plain((tuple(columns), marker))
    try:
        return _dump((function, Pickled(dump_plain(tuple(columns))), marker))
    except Exception as error:
        raise _dump_error(f"the function {callable_name(function)}()", function, error) from error


def dump_row(row: tuple[Any, ...], files_by_name: bool) -> list[Part]:
    """Pickle the arguments of one call of a batch.

    Raises:
        SerializationError: One of them cannot be pickled.
    """
    try:
        wrapped = wrap_large(row, files_by_name)
        return _dump(row, files_by_name=files_by_name) if wrapped is None else dump_plain(wrapped)
    except Exception as error:
        raise _dump_error("the arguments of a call", row, error) from error


def contains_classes(parts: Sequence[Any]) -> bool:
    """Return True if a pickled value may contain classes by value."""
    from re import escape, search

    mark = escape(CLASSES_MARK)
    nested = search(escape(_unpack.__name__.encode()), parts[0]) is not None  # other parts may be pickles, too
    return any(search(mark, part) for part in (parts if nested else parts[:1]))


def load(parts: Sequence[Any], what: str = "the value") -> Any:
    """Rebuild what `dump` or `dump_call` pickled.

    Args:
        parts: Objects with the buffer protocol. Arrays use the memory of parts[1:] without a copy, so no other object
            may use it. Read-only memory is copied, so that arrays are always as writable as they were.
        what: A description of the value for the error message.

    Raises:
        SerializationError: The value cannot be unpickled in this process. The message names the value, the reason and
            the remedy.
        MemoryError: There is no memory for it.
    """
    try:
        if len(parts) == 1:
            return pickle.loads(parts[0])
        return pickle.loads(parts[0], buffers=[_as_writable(part) for part in parts[1:]])
    except MemoryError as error:
        reason = str(error)
    except Exception as error:
        from pympipool.errors import SerializationError

        raise SerializationError(
            f"cannot unpickle {what} in process {os.getpid()}: {summarize_error(error)}. The modules it needs must be "
            "importable there; those that are not can be sent along with cloudpickle.register_pickle_by_value"
        ) from error
    # Not in the handler: the interpreter has few such objects in reserve, so none may be kept as the context of another.
    raise MemoryError(reason or f"no memory to unpickle {what} from {sum(map(len, parts))} bytes")


# ---- pickling ----


def _dump(value: object, is_result: bool = False, files_by_name: bool = False) -> list[Part]:
    """Pickle with the fastest pickler that is right for the value."""
    return dump_plain(value) if is_plain(value) else _dump_by_value(value, is_result, files_by_name)


def _dump_by_value(value: object, is_result: bool, files_by_name: bool = False) -> list[Part]:
    """Pickle with cloudpickle's pickler."""
    by_value: Any = sys.modules.get(_BY_VALUE)
    if by_value is None:
        from pympipool.serialization import by_value
    parts: list[Part] = by_value.dump_parts(value, is_result, files_by_name)
    return parts


def dump_plain(value: object) -> list[Part]:
    """Pickle a value for which plain pickle is right."""
    buffers: list[memoryview] = []
    return [pickle.dumps(value, PROTOCOL, buffer_callback=Buffers(buffers)), *buffers]


def wrap_large(values: tuple[Any, ...], files_by_name: bool = False) -> tuple[Any, ...] | None:
    """Return the values with arrays and long bytes replaced by the form that travels fastest.

    Return None if there are other values than these and scalars. Such a value could contain one of the arrays once
    more, and then both must arrive as the same object.
    """
    wrapped: list[Any] = []
    large: dict[int, Any] = {}  # by id, so that a repeated value arrives as one object
    for value in values:
        kind = type(value)
        if kind is _array_type and _is_simple_array(value):
            wrapped.append(large.setdefault(id(value), _ArrayPayload(value)))
        elif kind not in _scalars:
            if _array_type is None or not issubclass(kind, _array_type):
                return None
            if id(value) not in large:
                from pympipool.serialization.arrays import wrap

                large[id(value)] = wrap(value, files_by_name)
            if large[id(value)] is None:
                return None
            wrapped.append(large[id(value)])
        elif kind is bytes and len(value) >= OUT_OF_BAND_BYTES_MIN:
            wrapped.append(large.setdefault(id(value), _OutOfBandBytes(value)))
        else:
            wrapped.append(value)
    return tuple(wrapped)


def _is_simple_array(array: Any) -> bool:
    """Return True if the name of the dtype describes it completely, and the array is contiguous and not empty."""
    return array.dtype.isbuiltin == 1 and array.dtype.kind in "biufc" and array.size > 0 and array.flags.c_contiguous


def is_plain(value: object) -> bool:
    """Return True if plain pickle is certainly right for the value: it refers to no function and no class."""
    waiting: list[Any] = [value]
    for item in waiting:  # the loop appends to the list
        kind = type(item)
        if kind in _scalars or kind is Pickled:
            continue
        if kind is tuple or kind is list or kind is dict or kind is set or kind is frozenset:
            if len(item) + len(waiting) > _PLAIN_ITEMS_MAX:
                if kind is dict or _BY_VALUE in sys.modules or not _scalars.issuperset(map(type, item)):
                    return False
                continue
            waiting += item
            if kind is dict:
                waiting += item.values()
        elif kind is _array_type:
            dtype = item.dtype
            if dtype.isbuiltin != 1 or dtype.hasobject:
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
    _scalars.update(getattr(numpy, name) for name in names.split())
    IMMUTABLE_TYPES.update(_scalars - {bytearray})
    _array_type = numpy.ndarray
    _numpy_types.update(_scalars - _builtin_scalars, {numpy.ndarray})
    return True


def _as_writable(part: Any) -> Any:
    return bytearray(part) if memoryview(part).readonly else part


# ---- error messages ----


def _find_unpicklable(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, object]:
    """Return a description and the value of the part of a call that cannot be pickled."""
    name = callable_name(function)
    candidates = [(f"argument {number} of {name}()", value) for number, value in enumerate(args, start=1)]
    candidates += [(f"argument {key!r} of {name}()", value) for key, value in kwargs.items()]
    candidates.append((f"the function {name}()", function))
    for what, value in candidates:
        try:
            _dump(value)
        except Exception:
            return what, value
    return f"the arguments of {name}()", (args, dict(kwargs))


def _dump_error(what: str, value: object, error: Exception) -> SerializationError:
    from pympipool.errors import SerializationError

    reason = summarize_error(error)
    remedy = (
        ". Pass plain data or a path instead, and open files, connections, locks and generators inside the function"
    )
    if DEFINE_IN_MODULE in reason:
        remedy = ""
    return SerializationError(
        f"cannot pickle {what}, {safe_repr(value)} of type {type_name(type(value))}: {reason}{remedy}"
    )
