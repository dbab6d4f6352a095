"""Results as they are stored, and arguments as they are shown."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool._util.reprs import safe_repr
from pympipool.caching.entries import Unwritten, UnwrittenBatch, UnwrittenEntry
from pympipool.caching.exceptions import raised_parts
from pympipool.caching.file_format import LeftFile, left_in
from pympipool.serialization import payload

if TYPE_CHECKING:
    from pympipool._core.future import Future

__all__ = ["Result", "by_reference", "describe", "storable_results"]

_LARGE = 10**18

DESCRIPTION_MAX = 200
"""Longest text that describes the arguments of a call."""


Result: TypeAlias = "tuple[bytes, Sequence[Any] | LeftFile, str, str, int]"
"""What `Store.write` gets: the key of a call, the parts of its result, or the file in which a worker has left it, its function, its
arguments, and the run time in ns."""


def storable_results(entry: Unwritten) -> list[Result]:
    """Return the results of a call or a batch that can be read in another session; none if it has failed, or was cancelled.

    Raises:
        ValueError: The result, or that of another call which this call got, has shared data, which end with this session.
        Exception: The result cannot be unpickled or pickled.
    """
    future = entry.future
    if future is None:
        return []
    if not future.has_result:
        return _raised(entry, future)
    parts = entry.received_parts()
    if parts is None:  # the user has set the result
        return []
    entry.keep(parts)
    left = left_in(parts)
    parts = parts if type(parts) is list else [parts]
    if entry.is_shared:
        raise ValueError("it has shared data, which end with this session")
    if isinstance(entry, UnwrittenBatch):
        return _of_batch(entry, parts, future.run_ns // len(entry.keys))
    assert isinstance(entry, UnwrittenEntry)
    if any(one.is_shared for one in entry.inputs):
        raise ValueError("its arguments have shared data, which the call may have written")
    if entry.must_be_unpickled:
        parts = by_reference(payload.load_copy(parts))
    return [(entry.key, left or parts, entry.function_name, describe(entry.arguments), future.run_ns)]


def _raised(entry: Unwritten, future: Future[Any]) -> list[Result]:
    """Return the exception of a call that is to be stored, if it is one."""
    if not isinstance(entry, UnwrittenEntry) or not entry.keeps_exception:
        return []
    parts = raised_parts(future) if entry.parts is None else entry.parts
    if parts is None:
        return []
    return [(entry.key, parts, entry.function_name, describe(entry.arguments), future.run_ns)]


def _of_batch(entry: UnwrittenBatch, parts: list[Any], run_ns: int) -> list[Result]:
    """Return the results of the calls of a batch: all, or those before the one that has raised."""
    values, _ = payload.load_copy(parts)
    dump = by_reference if entry.must_be_unpickled else payload.dump
    return [
        (key, dump(value), entry.function_name, describe(arguments), run_ns)
        for key, value, arguments in zip(entry.keys, values, entry.arguments, strict=False)
    ]


def by_reference(value: Any) -> list[Any]:
    """Pickle a value with classes of the script by their names: a later session has classes of its own."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
        return [pickled, *(buffer.raw() for buffer in buffers)]
    except Exception:  # a class in a function, which has no name
        return payload.dump(value, "a result")


def describe(arguments: Any) -> str:
    """Return a short text for the arguments of a call: a tuple of plain ones, or the text itself."""
    if isinstance(arguments, str):
        return arguments.encode("utf-8", "backslashreplace").decode()  # SQLite refuses half of a surrogate pair
    return ", ".join([_text(value) for value in arguments])[:DESCRIPTION_MAX]


def _text(value: Any) -> str:
    is_short = type(value) is float or (type(value) is int and -_LARGE < value < _LARGE)
    return repr(value) if is_short else safe_repr(value)
