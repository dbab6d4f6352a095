"""The results of other calls that a cached call gets: what its key says, whatever the user has done to the values since.

at submit:     read, and changed since ─► the value: the call is known by that, as if the user had passed it
else                    ─► the call is known by the key of the other one, and gets:

when it is sent:   not read yet             ─► the result as it was received
read: a number, a string ─► the value
read: anything else      ─► the pickle that is kept until it is written; then what is stored
neither kept nor stored  ─► the value, but the result of the call is not stored
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import ref

from pympipool._core.future import Future
from pympipool.caching.exceptions import is_raised
from pympipool.caching.values import UnhashableError, digest_of
from pympipool.serialization import payload
from pympipool.serialization.inputs import entry_and_origin, select
from pympipool.serialization.plain import IMMUTABLE_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.caching.store import Store

__all__ = ["UNKNOWN", "InputResults", "LastLoaded", "ReturnedValues", "is_changed", "stored_parts"]

UNKNOWN = -1
"""The version of what may have been made from another input than its key says (see `Unwritten`)."""

COMPARED_BYTES = 1 << 18
"""Bytes that are copied and compared at a time: two views are compared byte by byte, in thirty times the time."""


class LastLoaded:
    """The result that was unpickled last: many calls may get an item of it each. It is kept as long as its entry, for any thread.

    Nobody may write to it.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any]] = {}

    def find(self, entry: Any) -> tuple[Any] | None:
        """Return the result of an entry, in a tuple; None if another one was unpickled since."""
        return self._known.get(ref(entry))

    def keep(self, entry: Any, loaded: tuple[Any]) -> None:
        """Keep the result of an entry in the place of the last one."""
        before, known = self._known, dict[Any, tuple[Any]]()
        known[ref(entry, known.pop)] = loaded  # one step of C, as it may run between any two of Python's
        self._known = known
        before.clear()  # it refers to itself


class ReturnedValues:
    """The results of other calls as they were returned, for one call: each is unpickled once, so its items stay what they share.

    Args:
        find: Gets an entry, and returns the parts of its result as it was received; None if they are neither kept nor stored.
        last: What other calls have unpickled. So nobody may write to the values: they are to be compared, or pickled.
    """

    def __init__(self, find: Callable[[Any], list[Any] | None], last: LastLoaded) -> None:
        self._find = find
        self._last = last
        self._loaded: dict[int, tuple[Any] | None] = {}  # by the ids of the entries

    def pass_on(self, entry: Any) -> tuple[Any] | None:
        """Return a result to pass on, as of `payload.pass_on`, in a tuple; None if there is none, or it cannot be unpickled."""
        parts = self._find(entry)
        return None if parts is None else _passed_on(parts)

    def select(self, entry: Any, origin: tuple[Any, ...]) -> tuple[Any] | None:
        """Return a result, or an item of it, in a tuple; None if it cannot be unpickled, or there is no such item."""
        try:
            if id(entry) not in self._loaded:
                self._loaded[id(entry)] = self._load(entry)
            loaded = self._loaded[id(entry)]
            return None if loaded is None else (select(loaded[0], origin),)
        except Exception:  # code of classes of the user
            return None

    def _load(self, entry: Any) -> tuple[Any] | None:
        known = self._last.find(entry)
        if known is not None:
            return known
        parts = self._find(entry)
        if parts is None:
            return None
        loaded = (payload.load(parts),)
        self._last.keep(entry, loaded)
        return loaded


def is_changed(future: Any, returned: ReturnedValues) -> bool:
    """Return True if the value of a future was read, and may be another one than its call has returned."""
    entry, origin = entry_and_origin(future)
    if entry is None or future._state != "FINISHED" or not _was_read(future):
        return False
    if future._exception is not None or _cannot_change(future, entry):
        return False
    before = returned.select(entry, origin)
    return before is None or not _is_same(future._result, *before)


def _is_same(value: Any, before: Any) -> bool:
    """Return True if two values are certainly the same. Pickles are compared first: digests take ten times as long."""
    with suppress(Exception):  # code of classes of the user
        parts, former = payload.dump(value), payload.dump(before)
        if len(parts) == len(former) and all(map(_has_same_bytes, parts, former)):
            return True
    try:
        return digest_of(value) == digest_of(before)
    except UnhashableError:  # it cannot be told: the call gets the value, and has no key
        return False


def _has_same_bytes(part: Any, other: Any) -> bool:
    part, other = memoryview(part).cast("B"), memoryview(other).cast("B")
    starts = range(0, part.nbytes, COMPARED_BYTES)
    return part.nbytes == other.nbytes and all(
        bytearray(part[begin : begin + COMPARED_BYTES]) == other[begin : begin + COMPARED_BYTES] for begin in starts
    )


class InputResults:
    """The results of the inputs of a cached call, each in a tuple, as the key of the call says that they were.

    It is called with futures that have results. None: the result is that which the future has. The version of the call (see
    `Unwritten`) becomes `UNKNOWN` if an input may be another one than the key says.

    Args:
        entry: That of the call.
        returned: The results as they were returned.
    """

    def __init__(self, entry: Any, returned: ReturnedValues) -> None:
        self._entry = entry
        self._returned = returned
        self._uses = Counter(map(id, entry.inputs))

    def __call__(self, future: Any) -> tuple[Any] | None:
        """Return the result of an input."""
        if not self._entry.inputs:  # the user has given the call a name
            return None
        source, origin = entry_and_origin(future)
        if source is None:
            return None
        is_whole = (
            len(origin) == 1 and self._uses[id(source)] == 1
        )  # else the call gets its items, too: they are one object
        received = future.pickled_result() if is_whole else None
        result, version = None, source.version
        if received is not None:
            result = _passed_on(received)
        elif not _cannot_change(future, source):
            result = self._returned.pass_on(source) if is_whole else self._returned.select(source, origin)
            version = UNKNOWN if result is None else version
        self._entry.version = min(self._entry.version, version)
        return result


def _cannot_change(future: Any, entry: Any) -> bool:
    """Return True for numbers and strings, and for shared data: what gets these is not stored anyway."""
    return entry.is_shared or type(future._result) in IMMUTABLE_TYPES


def _was_read(future: Any) -> bool:
    """Return True for a future whose result may have been read; that of an item has read the result itself."""
    return not isinstance(future, Future) or (future.has_result and future.received_result() is None)


def _passed_on(parts: list[Any]) -> tuple[Any] | None:
    """Return a result to pass on, in a tuple; None if it cannot be unpickled: reading the future raises a better error."""
    try:
        return (payload.pass_on(parts),)
    except Exception:
        return None


def stored_parts(store: Store, key: bytes) -> list[Any] | None:
    """Return the parts of a stored result; None if there is none."""
    found = store.find(key)
    try:
        parts = [found] if isinstance(found, bytes) else None if found is None else list(store.files.read(key, found))
    except (OSError, ValueError):
        return None
    return None if parts is None or is_raised(parts) else parts
