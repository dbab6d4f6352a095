"""Calls, results and exceptions to bytes and back.

    master                                                        worker
    dump_call(number, function, args, kwargs) -> parts ...... parts -> load() -> (args, kwargs)
    load() <- parts ......................................... parts <- dump(value)
    load_exception() <- parts ............................... parts <- dump_exception(error, where)

Parts are what one message carries: parts[0] is a pickle (protocol 5), the others are its out-of-band buffers in
order, as views of the caller's memory: nothing large is copied here, and what a view shows until it is sent is what
arrives.

Which pickler? Plain pickle stores functions and classes of `__main__` by reference, which a worker resolves in its own
`__main__`, wrongly or not at all. cloudpickle stores them by value and is right for everything, but slow. So:

1. What consists of numbers, strings, small containers and numeric arrays has no reference to anything: plain pickle,
   which takes a fraction of a microsecond.
2. Everything else goes through the pickler of `by_value`, which is cloudpickle's.

An exception travels inside a pickle of strings, so that its name, its message and its traceback arrive even when it
cannot be unpickled there.

Every worker imports this at its start. What only some need (cloudpickle, our exceptions, tracebacks) is imported where it
is used: it takes three times as long as all the rest.
"""

from __future__ import annotations

import functools
import os
import reprlib
import sys

from pympipool.light import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Literal, TypeAlias

    from pympipool.errors import SerializationError

__all__ = [
    "IN_BAND_BELOW_BYTES",
    "OUT_OF_BAND_MAX",
    "RUN_BYTES",
    "Packed",
    "Part",
    "are_alike",
    "callable_name",
    "dump",
    "dump_call",
    "dump_exception",
    "format_exception",
    "join_exceptions",
    "load",
    "load_exception",
    "without_frames",
]

Part: TypeAlias = "bytes | memoryview"

PROTOCOL = 5

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

_BY_VALUE = "pympipool.by_value"

RUN_BYTES = 128 * 1024
"""bytes from here on travel out of band where they are an argument, or all of a result.

Measured there and back, one worker, in band and out of band: 100 kB 32 and 40 us; 200 kB 54 to 260 and 60 us, for their
memory is given back to the system and fetched again; 1 MB 1350 and 190 us."""

_scalars: set[type] = {type(None), bool, int, float, complex, str, bytes, bytearray}
"""Types whose values refer to nothing. numpy's join when numpy has been imported, see `_learn_numpy`."""

_array_type: type | None = None
"""`numpy.ndarray`, once a value could be one."""


class Packed:
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


class _Run:
    """Bytes that are to go out of band; becomes them again when loaded.

    Pickling copies them into the pickle and unpickling out of it, each time into fresh memory. Not for a bytearray, whose
    owner may well write into it while the call waits.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return bytes, (pickle.PickleBuffer(self.value),)


def dump(value: object, what: str = "the value") -> list[Part]:
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
    if type(value) in _scalars and not _is_run(value):
        return [pickle.dumps(value, PROTOCOL)]
    try:
        return _dump(_as_run(value))
    except Exception as error:
        raise _dump_error(what, value, error) from error


def dump_call(
    number: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | Literal[False] | None
) -> list[Part]:
    """Pickles a call.

    Args:
        number: The function's number when the worker gets the function by itself, else 0.
        function: The function, part of the pickle only when number is 0.
        args: Positional arguments; of a batch the columns.
        kwargs: Keyword arguments; None for a batch, False for a traced one.

    Returns:
        Parts as from `dump`, of (args, kwargs), or for number 0 of (function, args, kwargs).

    Raises:
        SerializationError: An argument, or the function, cannot be pickled; says which, why and what to do.
    """
    if number and not kwargs:
        for value in args:
            if type(value) not in _scalars or _is_run(value):
                break
        else:
            return [pickle.dumps((args, kwargs), PROTOCOL)]
    columns = tuple(map(_as_run, args))
    call = (columns, kwargs) if number else (function, columns, kwargs)
    try:
        return _dump(call)
    except Exception as error:
        what, value = _culprit(function, args, kwargs or {})
        raise _dump_error(what, value, error) from error


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
            f"cannot unpickle {what} in process {os.getpid()}: {_short(error)}. The modules it needs must be "
            "importable there; those that are not can be sent along with cloudpickle.register_pickle_by_value"
        ) from error


def dump_exception(error: BaseException, where: str = "", also: Sequence[str] = ()) -> list[Part]:
    """Pickles an exception with its traceback. Never raises, and keeps nothing of the exception.

    The exception arrives with its type, message, arguments, attributes and notes; its cause, context and traceback as
    text. That it can be unpickled is tried here: exceptions whose `__init__` takes other arguments than they hand on
    pickle well and then cannot be rebuilt. Those are rebuilt without their `__init__`; what cannot be rebuilt even so
    arrives as `RemoteError`.

    Args:
        error: The exception.
        where: Where it was raised, for the traceback, for example "worker 3 on node1, rank 0".
        also: Further tracebacks to show, as from `format_exception`: those of other ranks.

    Returns:
        Parts for `load_exception`.
    """
    text = "\n".join([format_exception(error, where), *also])
    try:
        pickled, lost, reason = _dump_faithfully(error)
    except Exception as problem:  # an exception that cannot even be looked at
        pickled, lost, reason = None, [], _short(problem)
    if lost:
        text += f"\n(attributes of the exception that cannot be pickled and were left out: {', '.join(lost)})"
    return [pickle.dumps((_type_name(type(error)), _text_of(error), text, pickled, reason), PROTOCOL)]


def load_exception(parts: Sequence[Any]) -> BaseException:
    """Rebuilds what `dump_exception` pickled.

    Returns:
        The exception, with a `RemoteTraceback` as its `__cause__`. A `RemoteError` in its place when the exception
        could not be pickled there or cannot be unpickled here (its class cannot be imported, say).

    Raises:
        SerializationError: The parts are not from `dump_exception`.
    """
    from pympipool.errors import RemoteError, RemoteTraceback, SerializationError

    try:
        type_name, message, text, pickled, reason = pickle.loads(parts[0])
    except Exception as problem:
        raise SerializationError(f"what arrived is no exception of a call: {_short(problem)}") from problem
    error: object = None
    if pickled is not None:
        try:
            error = pickle.loads(pickled)
        except Exception as problem:
            reason = _short(problem)
    if not isinstance(error, BaseException):
        error = RemoteError(type_name, message, reason)
    error.__cause__ = RemoteTraceback(text)
    return error


def join_exceptions(exceptions: Sequence[Sequence[Any]]) -> list[Part]:
    """The first of several exceptions of one call, with the tracebacks of all.

    Args:
        exceptions: Parts as from `dump_exception`, at least one; what they hold is not unpickled.

    Returns:
        Parts for `load_exception`.
    """
    first, *others = [pickle.loads(parts[0]) for parts in exceptions]
    type_name, message, text, pickled, reason = first
    text = "\n\n".join([text, *(other[2] for other in others)])
    return [pickle.dumps((type_name, message, text, pickled, reason), PROTOCOL)]


def are_alike(exceptions: Sequence[Sequence[Any]]) -> bool:
    """Whether exceptions have the same type, message and traceback, the line that says where they were raised aside.

    Args:
        exceptions: Parts as from `dump_exception`; what they hold is not unpickled.
    """
    told = [pickle.loads(parts[0])[:3] for parts in exceptions]
    return len({(type_name, message, text.partition("\n")[2]) for type_name, message, text in told}) <= 1


def format_exception(error: BaseException, where: str = "") -> str:
    """The traceback of an exception as text, with its causes, contexts and notes, from the user's first frame on."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, _user_traceback(error.__traceback__))
    except Exception as problem:  # an exception that cannot even be shown
        lines = [f"{_type_name(type(error))} (its traceback cannot be shown: {_type_name(type(problem))})\n"]
    return "".join([f"In {where}:\n" if where else "", *lines]).rstrip()


def without_frames(error: BaseException) -> BaseException:
    """The exception with the traceback of its cause as text: frames would keep a call's arguments alive."""
    from pympipool.errors import RemoteTraceback

    if error.__cause__ is not None and not isinstance(error.__cause__, RemoteTraceback):
        error.__cause__ = RemoteTraceback(format_exception(error.__cause__))
    error.__context__ = None
    return error.with_traceback(None)


def callable_name(function: object) -> str:
    """A name for anything that can be called, for messages.

    Examples:
        >>> import functools
        >>> callable_name(sum), callable_name(functools.partial(int, base=2)), callable_name("".join)
        ('sum', 'int', 'str.join')
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__qualname__


# ---- pickling ----


def _dump(value: object) -> list[Part]:
    """Pickles with the fastest pickler that is right for the value."""
    buffers: list[memoryview] = []

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

    if _is_plain(value):
        return [pickle.dumps(value, PROTOCOL, buffer_callback=keep_in_band), *buffers]
    from pympipool.by_value import dump as dump_by_value

    return [dump_by_value(value, keep_in_band), *buffers]


def _is_run(value: Any) -> bool:
    return type(value) is bytes and len(value) >= RUN_BYTES


def _as_run(value: Any) -> Any:
    return _Run(value) if _is_run(value) else value


def _is_plain(value: object) -> bool:
    """Whether the value certainly refers to no function, no class, nothing that plain pickle might get wrong."""
    waiting: list[Any] = [value]
    for one in waiting:  # which grows meanwhile
        kind = type(one)
        if kind in _scalars or kind is Packed or kind is _Run:
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
            return _is_plain(value)
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
    _array_type = numpy.ndarray
    return True


def _writable(part: Any) -> Any:
    return bytearray(part) if memoryview(part).readonly else part


def _unpack(*parts: Any) -> Any:
    """Unpickles a `Packed`."""
    return load(parts)


# ---- exceptions ----


class _Bare:
    """An exception to be pickled so that it is rebuilt without a call of its `__init__`."""

    def __init__(self, error: BaseException, state: dict[str, Any]) -> None:
        self.rebuilding = (type(error), error.args, state)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, self.rebuilding


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _dump_faithfully(error: BaseException) -> tuple[bytes | None, list[str], str]:
    """Pickles an exception so that it is known to arrive as it is.

    Returns:
        The pickle, or None where that cannot be; the attributes that were left out; what was in the way, as text: an
        exception that is kept would keep this frame alive, and with it the error.
    """
    reason = ""
    for value, lost in _forms(error):
        try:
            pickled = _dump_in_band(value)
            if _look_alike(error, pickle.loads(pickled)):
                return pickled, lost, ""
        except Exception as problem:
            reason = reason or _short(problem)
    return None, [], reason or "pickling and unpickling it changes it"


def _dump_in_band(value: object) -> bytes:
    """Pickles into one run of bytes, with the pickler's own exceptions."""
    if isinstance(value, BaseException) and type(value).__module__ == "builtins" and _is_plain(value.__reduce__()[1:]):
        return pickle.dumps(value, PROTOCOL)
    from pympipool.by_value import dump as dump_by_value

    return dump_by_value(value)


def _forms(error: BaseException) -> Iterator[tuple[object, list[str]]]:
    """Ways to pickle an exception, best first, each with the names of attributes that it leaves out."""
    yield error, []
    yield _Bare(error, dict(error.__dict__)), []
    kept = {name: value for name, value in error.__dict__.items() if _can_travel(value)}
    lost = sorted(str(name) for name in error.__dict__.keys() - kept.keys())
    if lost:
        yield _Bare(error, kept), lost


def _can_travel(value: object) -> bool:
    try:
        pickle.loads(_dump_in_band(value))
    except Exception:
        return False
    return True


def _look_alike(error: BaseException, other: object) -> bool:
    """Whether other has the type and message of error, memory addresses in the message aside."""
    if type(other) is not type(error):
        return False
    ours, theirs = str(error), str(other)
    return ours == theirs or _without_addresses(ours) == _without_addresses(theirs)


def _without_addresses(text: str) -> str:
    import re

    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)


def _user_traceback(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the first frame that is not pympipool's; the whole when all are."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        first = first.tb_next
    return first or trace


_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


# ---- words for messages ----


def _culprit(function: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, object]:
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
        f"cannot pickle {what}, {_shown(value)} of type {_type_name(type(value))}: {_short(error)}. Pass plain data or "
        "a path instead, and open files, connections, locks and generators inside the function"
    )


_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 80


def _shown(value: object) -> str:
    """The value in at most a few words, whatever its `__repr__` does."""
    try:
        return _repr.repr(value)
    except Exception:
        return object.__repr__(value)


def _short(error: BaseException) -> str:
    text = _text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def _type_name(kind: type) -> str:
    """The name of a type as tracebacks show it."""
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
