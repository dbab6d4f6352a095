"""Pickle a call before the results of other calls are known that it gets, its inputs.

    submit:                      (args with Input(0), kwargs) ─► pickle: what it was made of may change from now on
    when the inputs have ended:  Filled(pickled results, this pickle) ─► a pickle
    in the worker:               Filled ─► the results ─► (args, kwargs): Input(0) becomes the first of them

The pickle of a detached call, which its job loads, has inputs of the same kind. There, they are known by the keys of their calls.
"""

from __future__ import annotations

from _thread import _local

from pympipool._util.cmodules import pickle
from pympipool.serialization import payload
from pympipool.serialization.plain import STAND_INS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Filled", "Input", "entry_and_origin", "inputs_from", "select"]


class _Loading(_local):
    """What a thread loads.

    Attributes:
        find: Returns the result for an origin; None: no pickle with inputs is loaded.
    """

    find: Callable[[Any], Any] | None = None


_loading = _Loading()


class Input:
    """Stands for the result of a call in the pickle of another one.

    Args:
        origin: Tells which result it is: its number among the inputs, or more (see `detached/calls.py`).
    """

    __slots__ = ("_origin",)

    def __init__(self, origin: Any) -> None:
        self._origin = origin

    def __reduce__(self) -> tuple[Any, ...]:
        return load_input, (self._origin,)


STAND_INS.add(Input)


class Filled:
    """A pickled call, and the results of its inputs. Loading it returns the call.

    Args:
        results: The parts of the pickle of ([result, ...], {}).
        call: The parts of the call.
    """

    __slots__ = ("_call", "_results")

    def __init__(self, results: Sequence[Any], call: Sequence[Any]) -> None:
        self._results = results
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return load_filled, (len(self._results), *map(pickle.PickleBuffer, (*self._results, *self._call)))


def load_filled(count: int, *parts: Any) -> Any:
    """Return a call with the results of its inputs, which are the first parts."""
    results, _ = payload.load(parts[:count], "an argument")
    with inputs_from(results.__getitem__):
        return payload.load(parts[count:], "the arguments")


def load_input(origin: Any) -> Any:
    """Return the result of a call where the pickle of another one refers to it."""
    if _loading.find is None:
        raise LookupError("this pickle is that of a call, which needs the results of other calls")
    return _loading.find(origin)


class inputs_from:  # noqa: N801  # a context manager, which reads like a function
    """Have the pickles that this thread loads find the results of other calls.

    Args:
        find: Returns the result for an origin.
    """

    __slots__ = ("_before", "_find")

    def __init__(self, find: Callable[[Any], Any]) -> None:
        self._find = find

    def __enter__(self) -> None:
        self._before, _loading.find = _loading.find, self._find

    def __exit__(self, *_: object) -> None:
        _loading.find = self._before


def entry_and_origin(future: Any) -> tuple[Any, Any]:
    """Return the `cache_entry` of the call of a future, and what the future is made of: the key of the call, and how.

    Both are None if the call has no key.
    """
    entry = getattr(future, "cache_entry", None)
    if entry is not None:
        return entry, (entry.key,)
    return getattr(future, "source_entry", None), getattr(future, "derived_from", None)


def select(value: Any, origin: tuple[Any, ...]) -> Any:
    """Return what the future of an origin has, which is a result, or an item of one."""
    source, *how = origin
    value = value if isinstance(source, bytes) else select(value, source)
    return select_item(value, *how) if how else value


def select_item(value: Any, how: str, selected: Any) -> Any:
    """Return an item of a result, as the futures of `get_item_from_future` and `split_future` have it.

    Args:
        value: The result.
        how: "item", or "split".
        selected: The index or key of the item; for "split" the number of items and the index.
    """
    if how == "item":
        return value[selected]
    count, index = selected
    if len(value) != count:
        raise ValueError(f"split_future() was asked for {count} items, but the result has {len(value)}")
    return value[index]
