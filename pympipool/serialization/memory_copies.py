"""Copies of memory that many calls get, in shared memory. Each call may write what it gets: it is its own.

    MemoryCopy(memory of an array) ── its key ──►  load_copy(key) ─► mapped for each call, copy-on-write, or copied

`execution/recognition.py` decides what is copied. This module is imported with the first copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pympipool._core.private_copies import Usage, own_copy
from pympipool._util.cmodules import pickle
from pympipool.serialization.plain import dump_plain
from pympipool.serialization.shared import load, store

__all__ = ["MemoryCopy", "PickledWithCopies", "load_copy", "load_with_copies"]


class MemoryCopy:
    """A copy of memory, which takes its place in pickles of calls. Each call that gets it may write what it gets: it is its own.

    Args:
        data: Contiguous memory.

    Raises:
        MemoryError, OSError: There is not enough memory for a copy.
    """

    __slots__ = ("_object",)

    def __init__(self, data: Any) -> None:
        self._object = store([data])

    @property
    def data(self) -> memoryview:
        """The copy, read-only."""
        return self._object.mapping.parts()[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return load_copy, (self._object.key,)


def replace_large(parts: Sequence[Any], size_bytes: int) -> tuple[list[Any], list[Any]]:
    """Return a pickled value with copies in place of the parts of so many bytes and more, and these copies.

    The copies must be kept as long as what this returns is used.

    Raises:
        MemoryError, OSError: There is no room for a copy.
    """
    replaced = [MemoryCopy(part) if memoryview(part).nbytes >= size_bytes else part for part in parts]
    return dump_plain(PickledWithCopies(replaced)), [part for part in replaced if type(part) is MemoryCopy]


class _Use:
    """A copy where a call gets it. One object would arrive as one, but the calls of a batch get memory of their own."""

    __slots__ = ("_copy",)

    def __init__(self, copy: MemoryCopy) -> None:
        self._copy = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return self._copy.__reduce__()


class PickledWithCopies:
    """A pickled value some of whose buffers are replaced by a `MemoryCopy`. Loading it returns the value.

    Args:
        parts: As for `plain.Pickled`.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return load_with_copies, tuple(
            _Use(part) if type(part) is MemoryCopy else pickle.PickleBuffer(part) for part in self.parts
        )


def load_with_copies(pickled: Any, *buffers: Any) -> Any:
    """Return the value of a `PickledWithCopies`: a loader."""
    return pickle.loads(pickled, buffers=buffers)


def load_copy(key: bytes) -> memoryview:
    """Return memory with the contents of a `MemoryCopy` that belongs to the caller: a loader, as `load_value`."""
    found = load(key, keep_descriptor=True)
    if found.usage is None:
        found.usage = Usage()
    return own_copy(found.mapping, found.usage)
