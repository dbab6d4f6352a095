"""The pickles of detached calls. A future among the arguments becomes a reference to the result of its call.

    script:  (fn, args with futures, kwargs) ─► (fn, args with inputs, kwargs) ─► pickle
    job:     pickle ─► (fn, args, kwargs): an input becomes the result of its call

Results are in the folder of their submission, or in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pympipool.detached.spool import Spool
from pympipool.serialization import payload
from pympipool.serialization.future_search import resolve
from pympipool.serialization.inputs import Input, inputs_from, select_item

if TYPE_CHECKING:
    from pympipool.caching.store import Store

__all__ = ["Inputs", "dump_detached", "origin_of"]

LATE_S = 60.0
"""Seconds after which a result is missing that a network file system shows late."""

LATE_PAUSE_S = 0.2
"""Pause between two looks for it."""


def origin_of(future: Future[Any]) -> tuple[Any, ...] | None:
    """Return what a future is made of: the key of its call, and how; None if its call has no key."""
    entry = getattr(future, "cache_entry", None)
    origin: tuple[Any, ...] | None = getattr(future, "derived_from", None) if entry is None else (entry.key,)
    return origin


def key_of(origin: tuple[Any, ...]) -> bytes:
    """Return the key of the call in an origin."""
    while not isinstance(origin[0], bytes):
        origin = origin[0]
    return origin[0]


def dump_detached(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Pickle a call, all of whose futures have keys. What it refers to may change afterwards.

    Raises:
        SerializationError: It cannot be pickled.
    """

    def input_of(future: Future[Any]) -> Input:
        origin = origin_of(future)
        assert origin is not None, "the call would have no key"
        return Input(origin)

    args, kwargs = resolve(args, kwargs, input_of)
    return [bytes(part) for part in payload.dump_call(0, fn, args, kwargs)]


class Inputs:
    """The results that a call gets, in its job.

    Args:
        root: The folder of all submissions.
        places: The submission and the number of each call that had not ended when this one was submitted, by key.
        open_store: Opens the cache, for those that had.
    """

    def __init__(self, root: str, places: dict[str, Any], open_store: Callable[[], Store]) -> None:
        self._root = root
        self._places = places
        self._open_store = open_store

    def in_use(self) -> inputs_from:
        """Have the pickles that this thread loads find these results."""
        return inputs_from(self._of_origin)

    def _of_origin(self, origin: tuple[Any, ...]) -> Any:
        """Return the result of a call, or an item of it."""
        source = origin[0]
        value = self.load(source) if isinstance(source, bytes) else self._of_origin(source)
        return value if len(origin) == 1 else select_item(value, *origin[1:])

    def load(self, key: bytes) -> Any:
        """Return the result of a call.

        Raises:
            LookupError: There is none.
        """
        deadline_s = monotonic() + LATE_S
        while True:
            parts = self._find(key)
            if parts is not None:
                return payload.load(parts, "the result of another call")
            if monotonic() > deadline_s:
                raise LookupError(
                    f"the result {key.hex()} of another call is neither in its job nor in the cache any more"
                )
            sleep(LATE_PAUSE_S)

    def _find(self, key: bytes) -> list[Any] | None:
        place = self._places.get(key.hex())
        if place is not None:
            parts = Spool(self._root, place[0]).read_value(place[1])
            if parts is not None:
                return [bytearray(part) for part in parts]
        store = self._open_store()
        try:
            found = store.find(key)
            if found is None:
                return None
            return [found] if isinstance(found, bytes) else [*map(bytearray, store.files.read(key, found))]
        except (OSError, ValueError):
            return None
        finally:
            store.close()
