"""Results as they are stored, and arguments as they are shown."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from pympipool._util.reprs import safe_repr
from pympipool.serialization import payload

if TYPE_CHECKING:
    from pympipool.caching.entries import UnwrittenEntry

__all__ = ["by_reference", "describe", "storable_parts"]

_LARGE = 10**18

DESCRIPTION_MAX = 200
"""Longest text that describes the arguments of a call."""


def storable_parts(entry: UnwrittenEntry) -> list[Any] | None:
    """Return the parts of a result that can be read in another session; None if the call has failed, or was cancelled.

    Raises:
        ValueError: The result, or that of another call which this call got, has shared data, which end with this session.
        Exception: The result cannot be unpickled or pickled.
    """
    future = entry.future
    if future is None or not future.has_result:
        return None
    parts = entry.parts if entry.parts is not None else future.pickled_result()
    if parts is None:  # the user has set the result
        return None
    parts = parts if type(parts) is list else [parts]
    if entry.is_shared:
        raise ValueError("it has shared data, which end with this session")
    if any(one.is_shared for one in entry.inputs):
        raise ValueError("its arguments have shared data, which the call may have written")
    if not entry.must_be_unpickled:
        return parts
    return by_reference(payload.load([*map(bytearray, parts)]))


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
