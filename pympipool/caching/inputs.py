"""The results of other calls that a cached call gets: what its key says, whatever the user has done to the values since.

at submit:     read, and changed since ─► the value: the call is known by that, as if the user had passed it
else                    ─► the call is known by the key of the other one, and gets:

when it is sent:   not read yet             ─► the result as it was received
read: a number, a string ─► the value
read: anything else      ─► the pickle that is kept until it is written; then what is stored
neither kept nor stored  ─► the value, but the result of the call is not stored
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pympipool.caching.exceptions import is_raised
from pympipool.caching.values import UnhashableError, digest_of
from pympipool.serialization import payload
from pympipool.serialization.inputs import select_item
from pympipool.serialization.plain import IMMUTABLE_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.caching.store import Store

__all__ = ["UNKNOWN", "is_changed", "result_of_input", "stored_parts"]

UNKNOWN = -1
"""The version of what may have been made from another input than its key says (see `Unwritten`)."""


def is_changed(future: Any, find: Callable[[Any], list[Any] | None]) -> bool:
    """Return True if the value of a future was read, and may be another one than its call has returned.

    Args:
        find: Gets an entry, and returns the parts of its result as it was received; None if they are neither kept nor stored.
    """
    entry, origin = _entry_and_origin(future)
    if entry is None or future._state != "FINISHED" or (origin is None and not _was_read(future)):
        return False
    if future._exception is not None or _cannot_change(future, entry):
        return False
    parts = find(entry)
    before = None if parts is None else _selected(parts, origin)
    if before is None:
        return True
    try:
        return digest_of(future._result) != digest_of(*before)
    except UnhashableError:  # it cannot be told: so the call gets what was returned
        return False


def result_of_input(future: Any, find: Callable[[Any], list[Any] | None]) -> tuple[tuple[Any] | None, int]:
    """Return the result of an input of a cached call.

    Args:
        future: That of the input. It has a result.
        find: As of `is_changed`.

    Returns:
        The result in a tuple, or None: that which the future has. And the version of the input; `UNKNOWN` if it may be another
        one than its key says.
    """
    entry, origin = _entry_and_origin(future)
    if entry is None:
        return None, sys.maxsize
    parts = future.pickled_result() if origin is None else None
    if parts is not None:
        return _passed_on(parts), entry.version
    if _cannot_change(future, entry):
        return None, entry.version
    parts = find(entry)
    result = None if parts is None else _passed_on(parts) if origin is None else _selected(parts, origin)
    return result, UNKNOWN if result is None else entry.version


def _entry_and_origin(future: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """Return the entry of the call of a future, and how the future is made of its result if it is not the result itself."""
    entry = getattr(future, "cache_entry", None)
    if entry is not None:
        return entry, None
    return getattr(future, "source_entry", None), getattr(future, "derived_from", None)


def _cannot_change(future: Any, entry: Any) -> bool:
    """Return True for numbers and strings, and for shared data: what gets these is not stored anyway."""
    return entry.is_shared or type(future._result) in IMMUTABLE_TYPES


def _was_read(future: Any) -> bool:
    return future.has_result and future.received_result() is None


def _passed_on(parts: list[Any]) -> tuple[Any] | None:
    """Return a result to pass on, in a tuple; None if it cannot be unpickled: reading the future raises a better error."""
    try:
        return (payload.pass_on(parts),)
    except Exception:
        return None


def _selected(parts: list[Any], origin: tuple[Any, ...] | None) -> tuple[Any] | None:
    """Return a result, or an item of it, in a tuple; None if it cannot be unpickled, or there is no such item."""
    try:
        value = payload.load([parts[0], *map(bytearray, parts[1:])])
        return (value if origin is None else _select(value, origin),)
    except Exception:  # code of classes of the user
        return None


def _select(value: Any, origin: tuple[Any, ...]) -> Any:
    source, how, selected = origin
    return select_item(value if isinstance(source, bytes) else _select(value, source), how, selected)


def stored_parts(store: Store, key: bytes) -> list[Any] | None:
    """Return the parts of a stored result; None if there is none."""
    found = store.find(key)
    try:
        parts = [found] if isinstance(found, bytes) else None if found is None else list(store.files.read(key, found))
    except (OSError, ValueError):
        return None
    return None if parts is None or is_raised(parts) else parts
