"""Recognize large arrays that many calls get, and send a copy in shared memory instead of them.

    pickled call: pickle, buffer, buffer, ...      each buffer of `share_above` bytes or more:
      1st time ─► noted                            2nd time ─► its digest
      3rd time, the same digest ─► a copy in shared memory; from then on the copy's key in place of the buffer
      another digest ─► sent, like all before      changes again and again ─► sent without a look, for up to 64 calls

The buffers are those of arrays, wherever in the call these are: arguments, containers, the function's globals and closure, the
object of a bound method, columns of a frame. A call gets memory of its own, copy-on-write. So it cannot tell a copy from the array.

A digest is compared at each call. An array that is read-only may change all the same: through a view that was made before, or
when its owner makes it writable again. Only the memory of a bytes object does not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from pympipool.serialization.plain import address_of, array_type, dump_plain

COPIES_MAX = 64
"""Most copies of one executor. Each takes a file descriptor here and in each worker that uses it."""

PAUSE_MAX = 64
"""Most calls for which an array is sent without a look. A digest takes a part of the time that it takes to send the array."""

PLACES_MAX = 256
"""Most parts of one array that are remembered."""

REPAID = 8
"""Uses after which a copy has paid. Then a change of the array is no reason to wait with the next copy."""


class _Memory:
    """A part of an array's memory, as calls have got it.

    Attributes:
        found: Its digest, and the copy that has this digest, if there is one.
        pause: Number of calls for which it is not looked at.
        changes: Number of times in a row that it was changed, or its copy dropped, before a copy had paid.
        uses: Number of calls that got the copy.
    """

    __slots__ = ("changes", "found", "pause", "size_bytes", "uses")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.found: tuple[bytes | None, Any] = None, None
        self.pause = self.changes = self.uses = 0

    def note_change(self, digest: bytes) -> None:
        """Note that the memory has another digest than before."""
        if self.found[0] is not None:
            self.drop_copy()
        self.found = digest, None

    def drop_copy(self) -> None:
        """Forget the copy. If it has not paid, there is no next one for some calls."""
        self.changes = 0 if self.uses >= REPAID else self.changes + 1
        self.pause = min(1 << self.changes, PAUSE_MAX) if self.changes else 0
        self.found = self.found[0], None
        self.uses = 0


class _Owner:
    """An array that owns memory, and what calls have got of it.

    Attributes:
        parts: By address and size.
    """

    __slots__ = ("parts", "reference", "size_bytes")

    def __init__(self, reference: weakref.ref[Any], size_bytes: int) -> None:
        self.reference = reference
        self.size_bytes = size_bytes
        self.parts: dict[tuple[int, int], _Memory] = {}

    def drop_parts_without_copy(self) -> None:
        """Forget the parts that are not shared."""
        self.parts = {place: memory for place, memory in list(self.parts.items()) if memory.found[1] is not None}


class RecognizedArrays:
    """The large arrays that calls of one executor have got.

    Args:
        share_above: The size of a large array, bytes.

    Raises:
        ImportError: xxhash is not installed.
    """

    def __init__(self, share_above: int) -> None:
        self._share_above = share_above
        try:
            from xxhash import xxh3_128_digest
        except ImportError:
            raise ImportError("share_above needs the package xxhash: pip install xxhash") from None
        self._digest: Callable[[Any], bytes] = xxh3_128_digest
        self._owners: dict[int, _Owner] = {}  # by id of the array
        self._with_copy: dict[_Memory, None] = {}  # the latest one last

    def replace(self, parts: list[Any]) -> tuple[list[Any], list[Any]]:
        """Return a pickled call with copies in place of recognized arrays, and these copies.

        The copies must be kept until the call has ended.
        """
        copies: list[Any] = []
        checked: dict[_Memory, Any] = {}
        replaced = parts
        for i in range(1, len(parts)):
            if parts[i].nbytes >= self._share_above:
                copy = self._find_copy(parts[i], checked)
                if copy is not None:
                    replaced = replaced if copies else list(parts)
                    replaced[i] = copy
                    copies.append(copy)
        if not copies:
            return parts, []
        from pympipool.serialization.memory_copies import PickledWithCopies

        return dump_plain(PickledWithCopies(replaced)), copies

    def clear(self) -> None:
        """Forget all arrays, and the copies that no call needs."""
        self._owners.clear()
        self._with_copy.clear()

    def _find_copy(self, part: memoryview, checked: dict[_Memory, Any]) -> Any:
        """Return a copy of memory, if it has not changed for some calls; else None.

        Args:
            checked: The copies that this call has got already.
        """
        arrays: Any = array_type()
        owner: Any = part.obj
        while type(owner) is memoryview:  # the part was pickled before the rest of the call
            owner = owner.obj
        place = address_of(part)
        if place is None or not isinstance(owner, arrays):
            return None
        while isinstance(owner.base, arrays):
            owner = owner.base
        known = self._owners.get(id(owner))
        if known is None or known.reference() is not owner:
            known = _Owner(weakref.ref(owner, partial(self._forget, id(owner))), owner.nbytes)
            self._owners[id(owner)] = known
        memory = known.parts.get(place)
        if memory is None:
            if len(known.parts) >= PLACES_MAX:
                known.drop_parts_without_copy()
            known.parts[place] = _Memory(part.nbytes)
            return None
        if memory in checked:
            return checked[memory]
        if memory.pause:
            memory.pause -= 1
            return None
        former, copy = memory.found
        current = b"" if type(owner.base) is bytes else self._digest(part)
        if current != former:
            self._with_copy.pop(memory, None)
            memory.note_change(current)
            return None
        if copy is None:
            copy = self._copy(part, memory, known)
        if copy is not None:
            memory.uses += 1
            checked[memory] = copy
        return copy

    def _copy(self, part: memoryview, memory: _Memory, owner: _Owner) -> Any:
        from pympipool.serialization.memory_copies import MemoryCopy

        self._make_room(memory, owner)
        try:
            copy = MemoryCopy(part)
        except (MemoryError, OSError):
            memory.pause = PAUSE_MAX
            return None
        # Another thread may have written to the array meanwhile: so the digest is that of the copy.
        memory.found = (memory.found[0] and self._digest(copy.data)), copy
        self._with_copy[memory] = None
        return copy

    def _make_room(self, memory: _Memory, owner: _Owner) -> None:
        """Drop copies until the copies of an array are together no larger than the array, one more included."""
        own = [one for one in list(owner.parts.values()) if one.found[1] is not None]
        excess = sum(one.size_bytes for one in own) + memory.size_bytes - owner.size_bytes
        for one in own:
            if excess > 0:
                self._drop_copy(one)
                excess -= one.size_bytes
        for one in list(self._with_copy)[: max(len(self._with_copy) + 1 - COPIES_MAX, 0)]:
            self._drop_copy(one)

    def _drop_copy(self, memory: _Memory) -> None:
        memory.drop_copy()
        self._with_copy.pop(memory, None)

    def _forget(self, number: int, reference: weakref.ref[Any]) -> None:
        """Forget an array that is gone. Its copies end when no call needs them."""
        known = self._owners.get(number)
        if known is None or known.reference is not reference:
            return
        del self._owners[number]
        for memory in list(known.parts.values()):
            self._with_copy.pop(memory, None)
