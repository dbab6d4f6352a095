"""Share large data that many calls get; warn once for each function that sends such data with each call all the same.

What can be shared is recognized by `recognition.py`. The rest is the subject of the warning. One or two large calls are no
habit: data must travel at least once. So the third large call of a function is looked at. The function itself may carry the
data, in its globals, its closure or the object that it is a method of; or it gets the same array again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pympipool._core.shared_ranges import shared_place
from pympipool._util.formatting import format_bytes
from pympipool._util.reprs import callable_name
from pympipool._util.user_warnings import warn_user
from pympipool.execution.recognition import RecognizedArrays
from pympipool.serialization import payload

LARGE_BYTES = 10 << 20
"""Size from which data counts as large. To copy so much into a worker's memory takes a few milliseconds."""

REMEDY = "pass a handle, pympipool.share(...), or load it in init_function (with block_allocation=True)"

FUNCTIONS_MAX = 256
"""Number of functions that are remembered."""

CALLS = 3
"""The large call of a function that is looked at."""

_WARNED = None


class LargePayloads:
    """The large data that calls of one executor have got.

    Args:
        share_above: The size, in bytes, from which an array is shared when it is recognized. None: none is.
    """

    def __init__(self, share_above: int | None = None) -> None:
        self._arrays = None if share_above is None else RecognizedArrays(share_above)
        # By the function's name: its large calls, and weak references to the arrays of the last of them; `_WARNED` is the end.
        self._seen: dict[str, tuple[int, list[weakref.ref[Any]] | None]] = {}

    def share_or_warn(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, parts: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Share what is recognized, and warn if a call sends large data again.

        Args:
            fn: The function.
            args: Its arguments; of a batch the columns.
            kwargs: Its keyword arguments; of a batch the marker.
            parts: The pickled call.

        Returns:
            The pickled call as it is sent, and what must be kept until it has ended.
        """
        copies: list[Any] = []
        if self._arrays is not None:
            parts, copies = self._arrays.replace(parts)
        self._check(fn, args, kwargs, parts)
        return parts, copies

    def clear(self) -> None:
        """Forget the shared data that no call needs."""
        if self._arrays is not None:
            self._arrays.clear()

    def _check(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, parts: Sequence[Any]) -> None:
        size_bytes = _size(parts)
        if size_bytes < LARGE_BYTES:
            return
        name = callable_name(fn)
        count, former = self._seen.get(name, (0, []))
        if former is _WARNED:
            return
        if len(self._seen) >= FUNCTIONS_MAX:
            self._seen.clear()
        arrays = list(_large_arrays(args, kwargs))
        self._seen[name] = count + 1, [weakref.ref(one) for one in arrays]
        if count + 1 < CALLS:
            return
        carried_bytes = size_bytes - _size(payload.dump_call(1, fn, args, kwargs))
        short_name = name.rpartition("<locals>.")[2]
        repeated_bytes = sum(one.nbytes for one in arrays if any(reference() is one for reference in former))
        if carried_bytes >= LARGE_BYTES:
            self._warn(name, f"{short_name}() carries data, {format_bytes(carried_bytes)}, with each call: {REMEDY}")
        elif repeated_bytes:
            self._warn(
                name, f"{short_name}() gets the same data, {format_bytes(repeated_bytes)}, with each call: {REMEDY}"
            )

    def _warn(self, name: str, message: str) -> None:
        self._seen[name] = 0, _WARNED
        warn_user(message, UserWarning)


def _size(parts: Sequence[Any]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _large_arrays(args: tuple[Any, ...], kwargs: Any) -> Iterator[Any]:
    """Yield the large arrays that are sent among the arguments of a call."""
    for value in (*args, *(kwargs.values() if isinstance(kwargs, dict) else ())):
        if type(value).__name__ == "ndarray" and value.nbytes >= LARGE_BYTES and shared_place(value) is None:
            yield value
