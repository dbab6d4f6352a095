"""The pickles of detached calls. A future among the arguments becomes a reference to the result of its call.

    script:  (fn, args with futures, kwargs) ─► (fn, args with inputs, kwargs) ─► pickle
    job:     pickle ─► (fn, args, kwargs): an input becomes the result of its call

Results are in the folder of their submission, or in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pympipool.detached.spool import Spool
from pympipool.serialization import payload
from pympipool.serialization.future_search import find_futures, resolve
from pympipool.serialization.inputs import Input, entry_and_origin, inputs_from, select

if TYPE_CHECKING:
    from pympipool.caching.store import Store

__all__ = ["Inputs", "dump_detached"]

LATE_S = 60.0
"""Seconds after which a result is missing that a network file system shows late."""

LATE_PAUSE_S = 0.2
"""Pause between two looks for it."""

CONTAINERS = (list, tuple, dict)
"""Types whose items are objects of their own. Those of an array, for example, are views of it, which a pickle makes copies."""


def dump_detached(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Pickle a call, all of whose futures have keys. What it refers to may change afterwards.

    Raises:
        SerializationError: It cannot be pickled.
    """
    uses = Counter(id(entry_and_origin(one)[0]) for one in find_futures(args, kwargs))
    numbers = {source: number for number, source in enumerate(uses) if uses[source] > 1}

    def input_of(future: Future[Any]) -> Input:
        entry, origin = entry_and_origin(future)
        return Input((numbers.get(id(entry)), entry.key, origin))

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
        self._loaded: dict[int, Any] = {}  # by their numbers: the results of which the call gets several items

    def in_use(self) -> inputs_from:
        """Have the pickles that this thread loads find these results."""
        return inputs_from(self._find_origin)

    def _find_origin(self, place: tuple[int | None, bytes, tuple[Any, ...]]) -> Any:
        """Return the result of a call, or an item of it. Items of one result share what a pickle of them would share."""
        number, key, origin = place
        value = self._loaded[number] if number in self._loaded else self.load(key)
        is_view = len(origin) > 1 and not isinstance(select(value, origin[:1]), CONTAINERS)
        if number is not None and not is_view:
            self._loaded[number] = value
        elif number in self._loaded:
            value = self.load(key)
        return select(value, origin)

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
