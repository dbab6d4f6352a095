"""Find futures among the arguments of a call, and replace them.

They are searched for among the arguments and, to any depth, in lists, tuples (also named tuples), sets, frozensets
and dicts (values and keys), `OrderedDict` and `defaultdict`. Other objects, including dataclasses and subclasses of
containers, are not searched: only they know what their contents mean. Futures of any executor count, if they are
instances of `concurrent.futures.Future`; asyncio's futures are not.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

from pympipool._core.plain_values import consists_of
from pympipool._core.sequences import all_types_in
from pympipool.serialization.plain import CALL_IMMUTABLE_TYPES, CALL_SCALARS

__all__ = ["FutureSearch", "find_futures", "resolve", "search_futures"]

_MAPPINGS = (dict, OrderedDict, defaultdict)
_COLLECTIONS = (list, tuple, set, frozenset)
_SEARCHED = (Future, list, tuple, set, frozenset, dict)
_BUILT_IN = {list, tuple, set, frozenset, dict}


def find_futures(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Future[Any]]:
    """Return the futures among the arguments of a call, each once.

    Examples:
        >>> future = Future()
        >>> find_futures((1, [future]), {"x": {"y": future}}) == [future]
        True
        >>> find_futures((1, "two"), {})
        []
    """
    search = search_futures(args, kwargs)
    return [] if search is None else search.futures


def search_futures(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FutureSearch | None:
    """Return the futures among the arguments of a call, and where they are; None if there are certainly none."""
    if consists_of(args, CALL_SCALARS) and (not kwargs or consists_of(kwargs, CALL_SCALARS)):
        return None
    values = [*args, *kwargs.values()]
    for value in values:
        if type(value) not in CALL_SCALARS and isinstance(value, _SEARCHED):
            return FutureSearch(values)
    return None


def resolve(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result_of: Callable[[Future[Any]], Any] = Future.result,
    search: FutureSearch | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with each future replaced by its result.

    Containers that hold a future, however deep, are copied; all others stay the same objects. A container that appears
    several times, or contains itself, does so in the returned arguments too.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        result_of: Returns the replacement of a future.
        search: That of these arguments.

    Raises:
        TypeError: A result replaces a key of a dict or an item of a set, and cannot be hashed.

    Examples:
        >>> future = Future()
        >>> future.set_result(3)
        >>> resolve((1, [future]), {"x": {"y": future}})
        ((1, [3]), {'x': {'y': 3}})
    """
    search = search or FutureSearch([*args, *kwargs.values()])
    replacement = _Replacement(search.holders(), result_of)
    return tuple(map(replacement.of, args)), {name: replacement.of(value) for name, value in kwargs.items()}


_ARGUMENTS = 0
"""In place of the id of a container: a value is an argument itself."""


def _is_container(value: object) -> bool:
    kind = type(value)
    return kind in _COLLECTIONS or kind in _MAPPINGS or (isinstance(value, tuple) and hasattr(kind, "_make"))


class FutureSearch:
    """All futures and containers inside some values. Searches by loops, so that depth and cycles do no harm.

    Attributes:
        futures: The futures, each once.
        has_others: There are other objects than these, immutable ones, and containers that are built in.
    """

    def __init__(self, values: list[Any]) -> None:
        self.futures: list[Future[Any]] = []
        self.has_others = False
        self._seen: dict[int, Any] = {}  # containers and futures by id; kept alive, so that no id is reused
        self._parents: dict[int, list[int]] = {}  # for each container or future, the containers that hold it
        self._unvisited: list[Any] = []
        for value in values:
            self._add(value, _ARGUMENTS)
        while self._unvisited:
            self._visit(self._unvisited.pop())

    def _visit(self, container: Any) -> None:
        self._visit_items(container, id(container))
        if type(container) in _MAPPINGS:
            self._visit_items(container.values(), id(container))

    def _visit_items(self, values: Collection[Any], parent: int) -> None:
        if all_types_in(values, CALL_IMMUTABLE_TYPES):
            return
        for value in values:
            self._add(value, parent)

    def _add(self, value: Any, parent: int) -> None:
        if type(value) in CALL_IMMUTABLE_TYPES:
            return
        is_future = isinstance(value, Future)
        if not is_future and type(value) not in _BUILT_IN:
            self.has_others = True
        if not is_future and not _is_container(value):
            return
        self._parents.setdefault(id(value), []).append(parent)
        if id(value) not in self._seen:
            self._seen[id(value)] = value
            (self.futures if is_future else self._unvisited).append(value)

    def is_all(self) -> bool:
        """Return True if nothing can change in the arguments but the containers that hold the futures."""
        return not self.has_others and len(self.holders()) == len(self._seen)

    def hashed(self) -> set[int]:
        """Return the ids of the futures that are items of sets or keys of dicts (in tuples, too): results there are hashed."""
        unvisited: list[Any] = []
        for key in self.holders():
            container = self._seen[key]
            if type(container) in _MAPPINGS or isinstance(container, (set, frozenset)):
                unvisited += container
        found: set[int] = set()
        while unvisited:
            value = unvisited.pop()
            if isinstance(value, Future):
                found.add(id(value))
            elif isinstance(value, tuple):
                unvisited += value
        return found

    def holders(self) -> set[int]:
        """Return the ids of the futures, and of the containers from which a future can be reached."""
        reached: set[int] = set()
        unvisited = [id(future) for future in self.futures]
        while unvisited:
            key = unvisited.pop()
            if key not in reached:
                reached.add(key)
                unvisited += self._parents.get(key, ())
        reached.discard(_ARGUMENTS)
        return reached


class _Replacement:
    """Rebuilds the containers that hold futures. The same object is always replaced by the same object."""

    def __init__(self, holders: set[int], result_of: Callable[[Future[Any]], Any]) -> None:
        self._holders = holders
        self._result_of = result_of
        self._replacements: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        key = id(value)
        if key not in self._holders:
            return value
        if key not in self._replacements:
            self._replace(key, value)
        return self._replacements[key]

    def _replace(self, key: int, value: Any) -> None:
        if isinstance(value, Future):
            self._replacements[key] = self._result_of(value)
            return
        if isinstance(value, (tuple, frozenset)):
            items = [self.of(item) for item in value]
            if key not in self._replacements:  # else a list that holds it was replaced first, and with it this one
                self._replacements[key] = type(value)._make(items) if hasattr(value, "_make") else type(value)(items)
            return
        # A mutable container may contain itself, so its copy is registered before it is filled.
        self._replacements[key] = empty = copy.copy(value)
        empty.clear()
        if isinstance(value, dict):
            empty.update((self.of(name), self.of(item)) for name, item in value.items())
        elif isinstance(value, set):
            empty.update(map(self.of, value))
        else:
            empty.extend(map(self.of, value))
