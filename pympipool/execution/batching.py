"""`Executor.map`: calls over iterables, in batches, results in order.

    items ─┬─► one_by_one: all calls now, each by itself                       ─┬─► results, one by one as the user asks for them
           ├─► in_chunks:  batches of a given size, each as soon as it is full  ─┤
           └─► adaptive_batches.py: a few batches in flight at a time           ─┘

A batch ends with its first exception, and the results before it arrive: to the user it makes no difference how calls
were packed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._core.sequences import ConsumingIterator, without_own_frames
from pympipool.errors import SerializationError
from pympipool.execution.adaptive_batches import AdaptiveBatcher
from pympipool.execution.dependencies import find_futures
from pympipool.serialization.columns import pack
from pympipool.serialization.exceptions import load_exception

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.execution.engine import Engine
    from pympipool.resources import Resources
    from pympipool.serialization.payload import PackedColumns


class ArgumentColumns:
    """The arguments of all calls of a map: one list for each iterable, all as long as the shortest."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        if len(iterables) == 1:
            self.lists = [list(iterables[0])]
        else:
            self.lists = [list(column) for column in zip(*zip(*iterables, strict=False), strict=True)]

    def __len__(self) -> int:
        return len(self.lists[0]) if self.lists else 0

    def have_futures(self) -> bool:
        """Return True if there are futures among the arguments. Then each call must wait for its own."""
        return bool(find_futures(tuple(self.lists), {}))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over the arguments of each call."""
        return zip(*self.lists, strict=True)


def submit_map(
    fn: Callable[..., Any],
    resources: Resources,
    workers: int | None,
    chunksize: int | None,
    deadline_s: float | None,
    iterables: Sequence[Iterable[Any]],
    submit: Callable[..., Future[Any]],
    engine: Engine,
) -> Iterator[Any]:
    """Submit the calls of a map, in batches where that makes no difference to the user.

    Args:
        workers: Number of workers that serve many calls; None if each call has its own worker.
        submit: Submits a single call.

    Returns:
        An iterator over the results.
    """
    if chunksize is not None and chunksize > 1 and resources.cores == 1:
        return in_chunks(engine, submit, fn, iterables, resources, chunksize, deadline_s)
    columns = ArgumentColumns(iterables)
    engine.check_open()  # an iterable may have closed the executor
    if resources.cores > 1 or chunksize == 1 or columns.have_futures():
        return one_by_one(submit, fn, columns, deadline_s)
    if workers is None or resources.run_time_max is not None or resources.restart_limit:
        return one_by_one(submit, fn, columns, deadline_s)
    try:
        packed = pack(columns.lists, engine.workers_see_files)
    except SerializationError:  # of one call: the others run
        return one_by_one(submit, fn, columns, deadline_s)
    return in_adaptive_batches(engine, fn, packed, len(columns), workers, deadline_s)


def one_by_one(
    submit: Callable[..., Future[Any]], fn: Callable[..., Any], columns: ArgumentColumns, deadline_s: float | None
) -> Iterator[Any]:
    """Submit all calls now, each by itself. Return an iterator over the results."""
    pending: deque[Future[Any]] = deque()
    try:
        for row in columns.rows():
            pending.append(submit(fn, *row))
    except BaseException:
        _cancel(pending)
        raise
    return _results(pending, deadline_s)


def in_chunks(
    engine: Engine,
    submit: Callable[..., Future[Any]],
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    resources: Resources | None,
    chunksize: int,
    deadline_s: float | None,
) -> Iterator[Any]:
    """Submit all calls now, in batches of chunksize calls, each as soon as it is full.

    Args:
        submit: Submits a single call. Used for the calls of a chunk whose arguments contain futures.

    Returns:
        An iterator over the results.
    """
    pending: deque[Future[Any]] = deque()
    are_batches: list[bool] = []
    try:
        for columns in _chunks(iterables, chunksize):
            engine.check_open()  # an iterable may have closed the executor
            packed = _packed(columns, engine)
            if packed is not None:
                pending.append(engine.submit_batch(fn, packed, resources))
                are_batches.append(True)
                continue
            for row in zip(*columns, strict=True):
                pending.append(submit(fn, *row))
                are_batches.append(False)
    except BaseException:  # also if an iterable raises
        _cancel(pending)
        raise
    return Results(_results_of_chunks(pending, deque(are_batches), deadline_s), lambda: _cancel(pending))


def _packed(columns: tuple[Sequence[Any], ...], engine: Engine) -> PackedColumns | None:
    """Return the columns of a batch; None if its calls must travel one by one: there are futures, or one call cannot."""
    if find_futures(columns, {}):
        return None
    try:
        return pack(columns, engine.workers_see_files)
    except SerializationError:
        return None


def _results_of_chunks(
    pending: deque[Future[Any]], are_batches: deque[bool], deadline_s: float | None
) -> Iterator[tuple[list[Any], Any]]:
    """Yield the results of batches and, as lists of one, of single calls; keep no reference to them."""
    try:
        while pending:
            if are_batches.popleft():
                yield _result_of(pending.popleft(), deadline_s)
            else:
                yield [_result_of(pending.popleft(), deadline_s)], None
    finally:
        _cancel(pending)


def _chunks(iterables: Sequence[Iterable[Any]], chunksize: int) -> Iterator[tuple[Sequence[Any], ...]]:
    """Yield the arguments of chunksize calls at a time, as columns."""
    if len(iterables) == 1:
        column = iter(iterables[0])
        while items := list(islice(column, chunksize)):
            yield (items,)
    else:
        rows = zip(*iterables, strict=False)
        while chunk := list(islice(rows, chunksize)):
            yield tuple(zip(*chunk, strict=True))


def in_adaptive_batches(
    engine: Engine, fn: Callable[..., Any], columns: PackedColumns, count: int, workers: int, deadline_s: float | None
) -> Iterator[Any]:
    """Submit batches that take about `BATCH_S` each, as others end, whether or not the user iterates over the results."""
    batcher = AdaptiveBatcher(engine, fn, columns, count, workers)
    batcher.begin()
    return Results(_results_of_batches(batcher, deadline_s), batcher.stop)


def _results(pending: deque[Future[Any]], deadline_s: float | None) -> Iterator[Any]:
    """Yield results in order. If iteration ends early, cancel the remaining calls."""
    try:
        while pending:
            yield _result_of(pending.popleft(), deadline_s)
    finally:
        _cancel(pending)


def _results_of_batches(batcher: AdaptiveBatcher, deadline_s: float | None) -> Iterator[Any]:
    """Yield the results of batches in order. If iteration ends early, cancel the rest."""
    try:
        while (future := _next_batch(batcher, deadline_s)) is not None:
            pending, future = [future], None
            yield _result_of(pending.pop(), deadline_s)
    finally:
        batcher.stop()


def _next_batch(batcher: AdaptiveBatcher, deadline_s: float | None) -> Future[Any] | None:
    news = batcher.news
    while not batcher.has_more():
        news.result(None if deadline_s is None else max(deadline_s - monotonic(), 0.0))
        news = batcher.news
    return batcher.take()


def _cancel(pending: Iterable[Future[Any]]) -> None:
    for future in list(pending):
        future.cancel()


def _result_of(future: Future[Any], deadline_s: float | None) -> Any:
    """Return the result of a future, and keep no reference to the future. Let the future keep none to the result."""
    result = getattr(future, "uncached_result", future.result)  # a subclass may submit elsewhere
    try:
        if deadline_s is None:
            return result()
        return result(max(deadline_s - monotonic(), 0.0))
    except FutureTimeoutError:
        future.cancel()
        raise
    finally:
        del future, result


@without_own_frames
class Results(ConsumingIterator):
    """An iterator over the results of batches, call by call.

    Where a call failed, the iterator raises its exception instead of returning a result.
    """

    def __init__(self, batches: Iterator[Any], cancel: Callable[[], None]) -> None:
        self._batches = _result_lists(batches)
        self._cancel = cancel
        super().__init__(self._batches)

    def close(self) -> None:
        """Cancel the remaining batches."""
        self._batches.close()
        self._cancel()  # closing a generator that was never started does not run its `finally`


def _list_of_one(value: Any) -> list[Any]:
    return [value]


def _result_lists(batches: Iterator[Any]) -> Generator[list[Any], None, None]:
    """Yield the list of results of each batch, and raise the exception that ended it."""
    for results, error in batches:
        if type(results) is list:
            yield results
        else:
            yield from map(_list_of_one, results)  # a loop's variable would keep the last result alive
        if error is not None:
            raise load_exception(error)
