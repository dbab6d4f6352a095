"""Futures made of other futures: an item of a result, or the results of several calls together.

    future of {"energy": ..., "forces": ...} ─► get_item_from_future(future, "energy") ─► future of the energy
    future of a list of n items              ─► split_future(future, n)                ─► n futures
    many futures                             ─► batched(futures, n)                    ─► futures of lists of n results

A call can start as soon as the items that it needs are there. Nothing waits: a derived future ends by a callback of the
futures that it is made of. Futures of any executor will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any

from pympipool.execution.dependencies import copy_error, has_result, is_cancelled
from pympipool.resources import validation
from pympipool.serialization.inputs import entry_and_origin

__all__ = ["batched", "get_item_from_future", "split_future"]

ERROR_NOTE = "This is the error of the call whose result was asked for an item, or together with others."


def get_item_from_future(future: Future[Any], key: Any) -> Future[Any]:
    """Return a future of `future.result()[key]`.

    It fails with a copy of the exception of the call, or with that of the selection (KeyError, IndexError, TypeError). It
    is cancelled if the call is. Cancelling it cancels neither the call nor the futures of other items.

    Args:
        future: A future whose result is a mapping, a sequence, or anything else that has items.
        key: The key or the index of the item.

    Raises:
        TypeError: future is not a `concurrent.futures.Future`.

    Examples:
        >>> from pympipool import Executor
        >>> with Executor(max_workers=1) as exe:
        ...     energy = get_item_from_future(exe.submit(dict, energy=-3, steps=7), "energy")
        ...     exe.submit(abs, energy).result()
        3
    """
    _check_future("future", future)
    return _derived(future, lambda: future.result()[key], "item", key)


def split_future(future: Future[Any], n: int) -> list[Future[Any]]:
    """Return a future for each of the n items of a result that is a list, tuple or array.

    Args:
        future: A future whose result has n items. If it has more or fewer, all futures fail with ValueError.
        n: Number of items.

    Raises:
        TypeError: future is not a `concurrent.futures.Future`, or n is not an integer.
        ValueError: n is negative.

    Examples:
        >>> from pympipool import Executor
        >>> with Executor(max_workers=1) as exe:
        ...     quotient, remainder = split_future(exe.submit(divmod, 17, 5), 2)
        ...     quotient.result(), remainder.result()
        (3, 2)
    """
    _check_future("future", future)
    validation.count(0)("n", n)

    def item(index: int) -> Any:
        result = future.result()
        if len(result) != n:
            raise ValueError(f"split_future() was asked for {n} items, but the result has {len(result)}")
        return result[index]

    return [_derived(future, partial(item, index), "split", (n, index)) for index in range(n)]


def batched(futures: Iterable[Future[Any]], n: int) -> list[Future[list[Any]]]:
    """Return futures of lists of n results, in the order in which the calls end.

    The first future has the results of the n calls that end first, and so on; the last list may be shorter. So calls that
    combine n results each start early, however different the run times are. If a call fails or is cancelled, so does its
    batch.

    Args:
        futures: The futures, each once.
        n: Number of results in each batch.

    Raises:
        TypeError: futures are no `concurrent.futures.Future` objects, or n is not an integer.
        ValueError: n is smaller than 1, or a future is there twice.

    Examples:
        >>> from pympipool import Executor
        >>> with Executor(max_workers=1) as exe:
        ...     batches = batched([exe.submit(abs, -x) for x in range(5)], 2)
        ...     [exe.submit(sum, batch).result() for batch in batches]
        [1, 5, 4]
    """
    futures = list(futures)
    validation.count(1)("n", n)
    for position, future in enumerate(futures):
        _check_future(f"futures[{position}]", future)
    if len(set(futures)) < len(futures):
        raise ValueError("a future is there twice in batched(); its result would be used twice: remove one")
    batches = [_Batch(min(n, len(futures) - start)) for start in range(0, len(futures), n)]
    positions = count()  # next() is one step for all threads

    def add_to_batch(future: Future[Any]) -> None:
        batches[next(positions) // n].add(future)

    for future in futures:
        future.add_done_callback(add_to_batch)
    return [batch.future for batch in batches]


class _Batch:
    """Results of calls that have ended one after the other. Any thread may add one."""

    def __init__(self, size: int) -> None:
        self.future: Future[list[Any]] = Future()
        self._sources: list[Future[Any]] = []
        self._missing = count(size - 1, -1)

    def add(self, source: Future[Any]) -> None:
        """Add a future that has ended. The last one ends the future of the batch."""
        self._sources.append(source)
        if next(self._missing) == 0:
            _end(self.future, self._sources, lambda: [future.result() for future in self._sources])


class DerivedFuture(Future[Any]):
    """A future of an item of a result.

    Attributes:
        derived_from: The key of the call, and how the item is made of its result. That tells what a call depends on which gets
            this future (see `pympipool.caching`). None: the call has no key.
        source_entry: The `cache_entry` of the call.
    """

    derived_from: tuple[Any, ...] | None = None
    source_entry: Any = None


def _derived(source: Future[Any], make_result: Callable[[], Any], *how: Any) -> Future[Any]:
    derived = DerivedFuture()
    derived.source_entry, origin = entry_and_origin(source)
    if origin is not None:
        derived.derived_from = origin, *how
    source.add_done_callback(lambda _: _end(derived, [source], make_result))
    return derived


def _end(derived: Future[Any], sources: Sequence[Future[Any]], make_result: Callable[[], Any]) -> None:
    """End a derived future whose sources have ended, unless the user has cancelled it."""
    failed = next((source for source in sources if not has_result(source)), None)
    if failed is not None and is_cancelled(failed):
        derived.cancel()
    if not derived.set_running_or_notify_cancel():
        return
    try:
        if failed is not None:
            derived.set_exception(copy_error(failed, ERROR_NOTE))
        else:
            derived.set_result(make_result())
    except BaseException as error:  # unpickling and selecting run code of the user, which may raise anything
        derived.set_exception(error)


def _check_future(name: str, value: object) -> None:
    if not isinstance(value, Future):
        raise TypeError(f"{name} is {value!r}; it must be a concurrent.futures.Future, as submit() returns it")
