"""Calls and results to bytes and back; exceptions see `raised.py`.

    master                                                        worker
    dump_call(number, function, args, kwargs) -> parts ...... parts -> load() -> (args, kwargs)
    load() <- parts ......................................... parts <- dump(value)

Parts are what one message carries: parts[0] is a pickle (protocol 5), the others are its out-of-band buffers in
order, as views of the caller's memory: nothing large is copied here, and what a view shows until it is sent is what
arrives.

Which pickler? Plain pickle stores functions and classes of `__main__` by reference, which a worker resolves in its own
`__main__`, wrongly or not at all. cloudpickle stores them by value and is right for everything, but slow. So:

1. What consists of numbers, strings, small containers and numeric arrays has no reference to anything: plain pickle,
   which takes a fraction of a microsecond.
2. Everything else goes through the pickler of `by_value`, which is cloudpickle's.

Every worker imports this at its start. What only some need (cloudpickle, our exceptions) is imported where it is used: it takes
three times as long as all the rest.
"""

from __future__ import annotations

import os
import sys

from pympipool._util.cmodules import pickle
from pympipool._util.reprs import callable_name, safe_repr, summarize_error, type_name
from pympipool.serialization import _array, _unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, Final, Literal, TypeAlias

    from pympipool.errors import SerializationError

__all__ = [
    "BATCH",
    "IMMUTABLE_TYPES",
    "IN_BAND_BELOW_BYTES",
    "OUT_OF_BAND_MAX",
    "PROTOCOL",
    "RUN_BYTES",
    "TRACED_BATCH",
    "BatchMarker",
    "Part",
    "Pickled",
    "all_immutable",
    "dump",
    "dump_call",
    "dump_frozen",
    "freeze",
    "is_plain",
    "load",
]

Part: TypeAlias = "bytes | memoryview"

PROTOCOL = 5

BATCH: Final = None
"""Takes the place of the keyword arguments in a batch: many calls of one function, whose arguments are columns."""

TRACED_BATCH: Final = False
"""Takes the place of `BATCH` in a batch that a trace records."""

BatchMarker: TypeAlias = "Literal[False] | None"

IN_BAND_BELOW_BYTES = 16 * 1024
"""Smaller buffers stay inside the pickle.

Measured with numpy arrays, dump, load and two copies on the way: up to 16 KiB both ways take 11 us; at 64 KiB it is
13 us out of band and 16 us in band, at 256 KiB 24 us and 540 us."""

OUT_OF_BAND_MAX = 1022
"""Most buffers out of band: PMP_PARTS_MAX of csrc/channel.h, less the pickle itself and the times of a traced call.
Further ones stay inside it."""

_SMALL = 64
"""Values of more items, all containers taken together, are not looked through: the pickler does it faster, once
it has started, which takes 2 us. Only where it was never imported, which takes 15 ms, a list of numbers is."""

_BY_VALUE = "pympipool.serialization.by_value"

RUN_BYTES = 128 * 1024
"""bytes from here on travel out of band where they are an argument, or all of a result.

Measured there and back, one worker, in band and out of band: 100 kB 32 and 40 us; 200 kB 54 to 260 and 60 us, for their
memory is given back to the system and fetched again; 1 MB 1350 and 190 us."""

_scalars: set[type] = {type(None), bool, int, float, complex, str, bytes, bytearray}
"""Types whose values refer to nothing. numpy's join when numpy has been imported, see `_learn_numpy`."""

IMMUTABLE_TYPES: set[type] = _scalars - {bytearray}
"""Those of them whose values nobody can change. To be looked at only: it grows as `_scalars` does."""

_array_type: type | None = None
"""`numpy.ndarray`, once a value could be one."""


class Pickled:
    """A value that stays pickled: takes the value's place in arguments or results and becomes it when loaded.

    For results that only feed another call: they go on as they came.

    Args:
        parts: As from `dump`; kept, not copied.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, tuple(pickle.PickleBuffer(part) for part in self.parts)


class _OutOfBandBytes:
    """Bytes that are to go out of band; becomes them again when loaded.

    Pickling copies them into the pickle and unpickling out of it, each time into fresh memory. Not for a bytearray, whose
    owner may well write into it while the call waits.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return bytes, (pickle.PickleBuffer(self.value),)


class _ArrayPayload:
    """A numeric array that is one run of memory; becomes it again when loaded.

    numpy pickles more words for the type of an array than this has in all, and finds each of them again when it is loaded:
    that takes twice as long.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        array = self.array
        shape = () if array.ndim == 1 else (array.shape,)
        return _array, (pickle.PickleBuffer(array), array.dtype.str, *shape)


def dump(value: Any, what: str = "the value") -> list[Part]:
    """Pickles a value.

    Args:
        value: Anything that cloudpickle can pickle.
        what: What the value is, for the error message, for example "the result of solve()".

    Returns:
        The pickle, then its out-of-band buffers as one-dimensional views of bytes: at most `OUT_OF_BAND_MAX`, each of
        at least `IN_BAND_BELOW_BYTES`. The views show the memory of the value itself.

    Raises:
        SerializationError: The value cannot be pickled; says what, why and what to do.

    Examples:
        >>> load(dump([1, "two", lambda x: x + 3]))[2](1)
        4
    """
    kind = type(value)
    if kind in _scalars and not (kind is bytes and len(value) >= RUN_BYTES):
        return [pickle.dumps(value, PROTOCOL)]
    try:
        wrapped = _wrapped(value if kind is tuple else (value,))
        if wrapped is None:
            return _dump(value)
        return _dump_plainly(wrapped if kind is tuple else wrapped[0])
    except Exception as error:
        raise _dump_error(what, value, error) from error


def dump_call(
    number: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | BatchMarker
) -> list[Part]:
    """Pickles a call.

    Args:
        number: The function's number when the worker gets the function by itself, else 0.
        function: The function, part of the pickle only when number is 0.
        args: Positional arguments; of a batch the columns.
        kwargs: Keyword arguments; `BATCH` or `TRACED_BATCH` for a batch.

    Returns:
        Parts as from `dump`, of (args, kwargs), or for number 0 of (function, args, kwargs).

    Raises:
        SerializationError: An argument, or the function, cannot be pickled; says which, why and what to do.
    """
    if number and not kwargs:
        for value in args:
            kind = type(value)
            if kind not in _scalars or (kind is bytes and len(value) >= RUN_BYTES):
                break
        else:
            return [pickle.dumps((args, kwargs), PROTOCOL)]
    call = (args, kwargs) if number else (function, args, kwargs)
    try:
        wrapped = _wrapped(args) if number and not kwargs else None
        return _dump(call) if wrapped is None else _dump_plainly((wrapped, kwargs))
    except Exception as error:
        what, value = _find_unpicklable(function, args, kwargs or {})
        raise _dump_error(what, value, error) from error


def all_immutable(values: Collection[Any]) -> bool:
    """Whether certainly nobody can change any of the values: numbers, texts, and tuples of these.

    Examples:
        >>> all_immutable([1, "two", (3.0, (None, b"5"))]), all_immutable([1, ([],)])
        (True, False)
    """
    if _array_type is None:
        _learn_numpy()
    while True:
        kinds = set(map(type, values))
        if not kinds - {tuple} <= IMMUTABLE_TYPES:
            return False
        if tuple not in kinds:
            return True
        values = [value for some in values if type(some) is tuple for value in some]


def freeze(result: Any) -> Pickled:
    """A result as it is now, whatever is done to it from now on.

    Raises:
        SerializationError: It cannot be pickled.
    """
    pickled, *shown = dump(result, "the result")
    return Pickled([pickled, *map(bytes, shown)])


def dump_frozen(results: list[Any]) -> list[Part]:
    """Pickles results that are `Pickled`, or of the types that are `IMMUTABLE_TYPES`."""
    return _dump_plainly(results)


def load(parts: Sequence[Any], what: str = "the value") -> Any:
    """Rebuilds what `dump` or `dump_call` pickled.

    Args:
        parts: Objects with the buffer protocol. Arrays use the memory of parts[1:] as it is, so it must belong to
            nobody else; where it is read-only it is copied, so that arrays are always as writable as they were.
        what: What it is, for the error message.

    Raises:
        SerializationError: It cannot be unpickled in this process; says what, why and what to do.
    """
    try:
        if len(parts) == 1:
            return pickle.loads(parts[0])
        return pickle.loads(parts[0], buffers=[_writable(part) for part in parts[1:]])
    except Exception as error:
        from pympipool.errors import SerializationError

        raise SerializationError(
            f"cannot unpickle {what} in process {os.getpid()}: {summarize_error(error)}. The modules it needs must be "
            "importable there; those that are not can be sent along with cloudpickle.register_pickle_by_value"
        ) from error


# ---- pickling ----


def _dump(value: object) -> list[Part]:
    """Pickles with the fastest pickler that is right for the value."""
    if is_plain(value):
        return _dump_plainly(value)
    from pympipool.serialization.by_value import dump as dump_by_value

    buffers: list[memoryview] = []
    return [dump_by_value(value, _collector(buffers)), *buffers]


def _dump_plainly(value: object) -> list[Part]:
    buffers: list[memoryview] = []
    return [pickle.dumps(value, PROTOCOL, buffer_callback=_collector(buffers)), *buffers]


def _collector(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """What puts aside the buffers that go out of band, and says of the others that they stay in the pickle."""

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        if len(buffers) >= OUT_OF_BAND_MAX:
            return True
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous; numpy never hands out such a one
            return True
        if view.nbytes < IN_BAND_BELOW_BYTES:
            return True
        buffers.append(view)
        return False

    return keep_in_band


def _wrapped(values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The values, arrays and long bytes among them in the form in which they travel fastest.

    None where there is anything else than these and scalars: within it, an array could be met again, and has to
    arrive as the same one.
    """
    wrapped: list[Any] = []
    large: dict[int, _ArrayPayload | _OutOfBandBytes] = {}  # the one that is met again is the same one
    for value in values:
        kind = type(value)
        if kind is _array_type and _is_simple(value):
            wrapped.append(large.setdefault(id(value), _ArrayPayload(value)))
        elif kind not in _scalars:
            return None
        elif kind is bytes and len(value) >= RUN_BYTES:
            wrapped.append(large.setdefault(id(value), _OutOfBandBytes(value)))
        else:
            wrapped.append(value)
    return tuple(wrapped)


def _is_simple(array: Any) -> bool:
    """Whether its name says all of its type, and it is one run of memory, with something in it."""
    return array.dtype.isbuiltin == 1 and array.dtype.kind in "biufc" and array.size > 0 and array.flags.c_contiguous


def is_plain(value: object) -> bool:
    """Whether the value certainly refers to no function, no class, nothing that plain pickle might get wrong."""
    waiting: list[Any] = [value]
    for one in waiting:  # which grows meanwhile
        kind = type(one)
        if kind in _scalars or kind is Pickled:
            continue
        if kind is tuple or kind is list or kind is dict or kind is set or kind is frozenset:
            if len(one) + len(waiting) > _SMALL:
                if kind is dict or _BY_VALUE in sys.modules or not _scalars.issuperset(map(type, one)):
                    return False
                continue
            waiting += one
            if kind is dict:
                waiting += one.values()
        elif kind is _array_type:
            if one.dtype.isbuiltin != 1 or one.dtype.hasobject:
                return False
        elif _array_type is None and _learn_numpy():
            return is_plain(value)
        else:
            return False
    return True


def _learn_numpy() -> bool:
    """Makes numpy's types known, once numpy has been imported. Whether it has."""
    global _array_type
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray") or not hasattr(numpy, "complex128"):  # or half imported
        return False
    names = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
    _scalars.update(getattr(numpy, name) for name in names.split())
    IMMUTABLE_TYPES.update(_scalars - {bytearray})
    _array_type = numpy.ndarray
    return True


def _writable(part: Any) -> Any:
    return bytearray(part) if memoryview(part).readonly else part


# ---- when it fails ----


def _find_unpicklable(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, object]:
    """What of a call cannot be pickled: its name and value."""
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

    return SerializationError(
        f"cannot pickle {what}, {safe_repr(value)} of type {type_name(type(value))}: {summarize_error(error)}. Pass plain data or "
        "a path instead, and open files, connections, locks and generators inside the function"
    )
