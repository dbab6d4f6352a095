"""Keep the data of pickled calls as they are, while the calls wait.

The parts of a pickled call, except the first, are views of the caller's memory, which may change before they are sent:

    up to 64 KiB  ─► copied, if they are not sent or copied at once anyway
    more          ─► copied, if the result will be cached; else what has changed is sent

Calls that get the same array have one copy of it, as long as it does not change.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from pympipool._core.ring import Buffer
from pympipool.serialization.plain import KEPT_BYTES_MAX, address_of

__all__ = ["PartCopies", "keep_small"]

_COMPARED_BYTES = 1 << 20
"""Arrays are compared in pieces of this size, which fit into a cache of the processor."""

_UNCHANGED = (bytes, Buffer)
"""Types of objects whose memory does not change. A buffer is that of a result as it was received, without an array around it."""


def keep_small(parts: list[Any]) -> list[Any]:
    """Return a pickled call whose parts do not change any more, if it is small."""
    if len(parts) == 1 or sum(memoryview(part).nbytes for part in parts) > KEPT_BYTES_MAX:
        return parts
    return [parts[0], *(memoryview(bytearray(part)) for part in parts[1:])]


class PartCopies:
    """The copies of one executor."""

    def __init__(self) -> None:
        # By address and size: the latest copy.
        self._copies: weakref.WeakValueDictionary[tuple[int, int], Any] = weakref.WeakValueDictionary()

    def keep(self, parts: Sequence[Any]) -> list[Any]:
        """Return a pickled call, none of whose parts changes any more."""
        return [parts[0], *map(self._kept, parts[1:])]

    def _kept(self, part: memoryview) -> memoryview:
        owner = part.obj
        while type(owner) is memoryview:
            owner = owner.obj
        if type(owner) in _UNCHANGED:
            return part
        place = address_of(part) if part.nbytes > KEPT_BYTES_MAX else None
        if place is None:
            return memoryview(bytearray(part))
        import numpy as np

        array = np.frombuffer(part, np.uint8)
        copy = self._copies.get(place)
        if copy is None or not _are_equal(copy, array):
            copy = self._copies[place] = array.copy()
        return memoryview(copy)


def _are_equal(one: Any, other: Any) -> bool:
    pieces = range(0, len(one), _COMPARED_BYTES)
    return all((one[at : at + _COMPARED_BYTES] == other[at : at + _COMPARED_BYTES]).all() for at in pieces)
