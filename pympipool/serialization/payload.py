"""Convert calls and results to bytes and back; for exceptions see `exceptions.py`.

    master                                                        worker
    dump_call(number, function, args, kwargs) -> parts ...... parts -> load() -> (args, kwargs)
    load() <- parts ......................................... parts <- dump(value)

The parts are those of one message: parts[0] is a pickle (protocol 5), the others are its out-of-band buffers in order,
as views of the caller's memory. Nothing large is copied here. If the caller changes the memory before it is sent, the
changed data arrives.

Which pickler is used? Plain pickle stores functions and classes of `__main__` by reference. A worker resolves them in
its own `__main__`, wrongly or not at all. cloudpickle stores them by value and is right for everything, but slow. So:

1. Values made of numbers, strings, small containers and numeric arrays refer to no function or class. Small ones are
   written by `_core/pickle_writer.pyx`, in a tenth of a microsecond; others go through plain pickle.
2. Everything else goes through the pickler of `by_value`, which is cloudpickle's.

Every worker imports this module at its start. What only some workers need (cloudpickle, pympipool.errors) is imported
where it is used: it takes three times as long as all the rest.
"""

from __future__ import annotations

import os
import sys

from pympipool._core.instances import definitions
from pympipool._core.pickle_reader import load_small_value
from pympipool._core.plain_values import dump_plain_value
from pympipool._util.cmodules import pickle
from pympipool._util.reprs import callable_name, safe_repr, summarize_error, type_name
from pympipool.serialization import CLASSES_MARK, _unpack, contains, has_shared
from pympipool.serialization.plain import (
    CALL_SCALARS,
    OUT_OF_BAND_BYTES_MIN,
    SCALARS,
    Part,
    Pickled,
    dump_plain,
    is_plain,
    wrap_large,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final, Literal, TypeAlias

    from pympipool.errors import SerializationError

__all__ = [
    "BATCH",
    "TRACED_BATCH",
    "BatchMarker",
    "PackedColumns",
    "dump",
    "dump_call",
    "dump_copies",
    "dump_for_start",
    "dump_function",
    "dump_inputs",
    "dump_row",
    "load",
    "load_copy",
    "must_be_unpickled",
    "pass_on",
]

BATCH: Final = None
"""Takes the place of the keyword arguments in a batch: many calls of one function, whose arguments are columns."""

TRACED_BATCH: Final = False
"""Takes the place of `BATCH` in a batch that a trace records."""

BatchMarker: TypeAlias = "Literal[False] | None"

FORWARD_PICKLED_BYTES = 4096
"""Size from which a result is passed on to another call as it came, without unpickling and pickling it in the master.

For a smaller result, unpickling and pickling takes less time."""

_UNPACK_MARK = _unpack.__name__.encode()

DEFINE_IN_MODULE = "define it in a module"
"""The remedy for what can be pickled only by its name."""

_BY_VALUE = "pympipool.serialization.by_value"


class PackedColumns(tuple["Any", ...]):
    """The arguments of a batch as `columns.pack` returns them: plain pickle is right for all of them."""

    __slots__ = ()

    def cut(self, begin: int, end: int) -> PackedColumns:
        """Return the arguments of the calls from number begin to before number end."""
        return PackedColumns(column[begin:end] for column in self)


def dump(value: Any, what: str = "the value") -> list[Part]:
    """Pickle a result.

    Args:
        value: Any value that cloudpickle can pickle, or a `Pickled` one.
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
    if kind is Pickled:
        return list(value.parts)
    try:
        parts = dump_plain_value(value, SCALARS, OUT_OF_BAND_BYTES_MIN)
        if parts is not None:
            return parts
        if id(kind) in definitions:
            return _dump_by_value(value, True)
        wrapped = wrap_large(value if kind is tuple else (value,), is_result=True)
        if wrapped is None:
            return _dump(value, is_result=True)
        return dump_plain(wrapped if kind is tuple else wrapped[0])
    except MemoryError as error:
        raise MemoryError(f"no memory to pickle {what}") from error
    except Exception as error:
        raise _dump_error(what, value, error) from error


def dump_for_start(value: tuple[Any, ...], what: str) -> list[Part]:
    """Pickle a function that runs at the start of a worker, with its arguments. Otherwise as `dump`."""
    from pympipool.serialization import by_value

    try:
        return by_value.dump_for_start(value)
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
    call = (args, kwargs) if number else (function, args, kwargs)
    if type(args) is PackedColumns:
        return _dump_batch(number, function, args, kwargs)
    try:
        parts = dump_plain_value(call, CALL_SCALARS, OUT_OF_BAND_BYTES_MIN) if number else None
        if parts is not None:
            return parts
        if _has_instances(args):
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


def dump_function(function: Callable[..., Any], files_by_name: bool) -> list[Part]:
    """Pickle a function for calls that are sent later, as it would be in a call with number 0.

    Raises:
        SerializationError: It cannot be pickled.
    """
    try:
        return _dump_by_value(function, False, files_by_name)
    except Exception as error:
        raise _dump_error(f"the function {callable_name(function)}()", function, error) from error


def dump_inputs(function: Callable[..., Any], results: list[Any]) -> list[Part]:
    """Pickle the results of other calls that a call gets, as `inputs.Filled` takes them.

    Raises:
        SerializationError: One of them cannot be pickled.
    """
    inputs: tuple[list[Any], dict[str, Any]] = (results, {})
    try:
        parts = dump_plain_value(inputs, CALL_SCALARS, OUT_OF_BAND_BYTES_MIN)
        return _dump(inputs) if parts is None else parts
    except MemoryError as error:
        raise MemoryError(f"no memory to pickle the arguments of {callable_name(function)}()") from error
    except Exception as error:
        what = f"the result of another call, which is an argument of {callable_name(function)}()"
        raise _dump_error(what, results[0] if len(results) == 1 else results, error) from error


def dump_row(row: tuple[Any, ...], files_by_name: bool) -> list[Part]:
    """Pickle the arguments of one call of a batch.

    Raises:
        SerializationError: One of them cannot be pickled.
    """
    try:
        parts = dump_plain_value(row, CALL_SCALARS, OUT_OF_BAND_BYTES_MIN)
        if parts is not None:
            return parts
        if _has_instances(row):
            return _dump_by_value(row, False, files_by_name)
        wrapped = wrap_large(row, files_by_name)
        return _dump(row, files_by_name=files_by_name) if wrapped is None else dump_plain(wrapped)
    except Exception as error:
        raise _dump_error("the arguments of a call", row, error) from error


def dump_copies(results: object) -> list[Part]:
    """Pickle results of a batch in one pickle: copies that share nothing, instances of classes among them."""
    return _dump_by_value(results, True)


def must_be_unpickled(parts: Sequence[Any]) -> bool:
    """Return True if a pickled result may contain what must not be passed on as it is: classes by value, shared data."""
    nested = len(parts) > 1 and contains(parts[0], (_UNPACK_MARK,))  # other parts may be pickles, too
    for part in parts if nested else parts[:1]:
        if contains(part, (CLASSES_MARK,)) or has_shared(part):
            return True
    return False


def pass_on(parts: Sequence[Any]) -> Any:
    """Return a pickled result as an argument for another call. A large result stays pickled: the master need not unpickle it.

    A result with a class of the script is unpickled: the call has to find the class as it is now. So is one with a handle of
    shared data: the call gets the object.
    """
    return load(parts) if is_loaded_to_pass_on(parts) else Pickled(parts)


def is_loaded_to_pass_on(parts: Sequence[Any]) -> bool:
    """Return True if a result is unpickled to be passed on: a small one, or one of those (see `pass_on`)."""
    return sum(map(len, parts)) < FORWARD_PICKLED_BYTES or must_be_unpickled(parts)


def load(parts: Sequence[Any], what: str = "the result") -> Any:
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
            value = load_small_value(parts[0])
            return pickle.loads(parts[0]) if value is ... else value
        return pickle.loads(parts[0], buffers=[_as_writable(part) for part in parts[1:]])
    except MemoryError as error:
        reason = str(error)
    except Exception as error:
        from pympipool.errors import SerializationError

        if isinstance(error, SerializationError):  # of shared data in the value: it says what to do
            raise
        raise SerializationError(
            f"cannot unpickle {what} in process {os.getpid()}: {summarize_error(error)}. {_remedy_of(error)}"
        ) from error
    # Not in the handler: the interpreter has few such objects in reserve, so none may be kept as the context of another.
    raise MemoryError(reason or f"no memory to unpickle {what} from {sum(map(len, parts))} bytes")


def load_copy(parts: Sequence[Any], what: str = "the result") -> Any:
    """As `load`, with memory of its own: another object uses that of the parts."""
    return load([parts[0], *map(bytearray, parts[1:])], what)


def _remedy_of(error: Exception) -> str:
    """Return what to do about an exception that unpickling has raised."""
    if isinstance(error, (ImportError, AttributeError)):
        return (
            "The modules it needs must be importable there; those that are not can be sent along with"
            " cloudpickle.register_pickle_by_value"
        )
    return (
        "A class in it cannot be unpickled, not even by plain pickle: have it define __reduce__, or __getstate__ and"
        " __setstate__; or pass plain data instead"
    )


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


def _has_instances(values: tuple[Any, ...]) -> bool:
    """Return True if some of the values are instances of classes that go by value."""
    return bool(definitions) and not definitions.keys().isdisjoint(map(id, map(type, values)))


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
