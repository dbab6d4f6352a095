"""`Executor.map`: calls over iterables, in batches, results in order.

    items ─► AdaptiveBatcher: a few batches in flight at a time ─► results, one by one as the user asks for them
                ▲                            │
                └── a batch has ended ◄──────┘   its run time determines the size of the next ones: in the continuation thread

Batches of a given chunksize are submitted all at once. Adaptive batches grow until each takes about `BATCH_S`, and
shrink towards the end so that all workers finish together. A batch ends with its first exception, and the results
before it arrive: to the user it makes no difference how calls were packed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._core.sequences import ConsumingIterator, without_own_frames
from pympipool.errors import SerializationError
from pympipool.execution.dependencies import find_futures
from pympipool.serialization.columns import pack
from pympipool.serialization.exceptions import load_exception

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine
    from pympipool.resources import Resources
    from pympipool.serialization.payload import PackedColumns

BATCH_S = 0.004
"""Target run time of a batch: a hundred times the cost of sending it, and short for a thread that waits for it."""

GROWTH_MAX = 8
"""Maximum ratio of the size of a batch to that of the largest before it: the first items may differ from the others."""

BATCHES_PER_WORKER = 2
"""Batches in flight for each worker: one that runs, and one to start when it ends."""

SHARES_PER_WORKER = 2
"""A batch has at most 1/SHARES_PER_WORKER of the items left for each worker, so that the last batches are small."""


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
    """Submit batches that take about BATCH_S each, as others end, whether or not the user iterates over the results."""
    batcher = AdaptiveBatcher(engine, fn, columns, count, workers)
    batcher.begin()
    return Results(batcher.results(deadline_s), batcher.stop)


class AdaptiveBatcher:
    """Submits the batches of one map, and adapts their size to their run time.

    The user's thread submits the first batches (`begin`). From then on all state belongs to the continuation thread, which
    submits one batch after the other. The user's thread takes the futures of the batches from a queue (`results`), and
    sets only `_is_stopped`.
    """

    def __init__(
        self, engine: Engine, fn: Callable[..., Any], columns: PackedColumns, count: int, workers: int
    ) -> None:
        self._engine = engine
        self._fn = fn
        self._columns = columns
        self._count = count
        self._in_flight_max = BATCHES_PER_WORKER * workers
        self._workers = workers
        self._next = 0  # first row that was not submitted yet
        self._in_flight: dict[Future[Any], int] = {}  # size of each batch
        self._largest_size = 1
        self._item_s = 0.0  # estimated run time of one call; 0 before the first estimate
        self._batches: deque[Future[Any] | BaseException | None] = deque()  # to be read; an exception or None ends it
        self._news = self._new_news()  # ends when something is added there
        self._error: BaseException | None = None  # why no more batches are submitted
        self._is_stopped = False
        self._wants_fill = False
        self._is_filling = False
        self._is_finished = False

    def __len__(self) -> int:
        """Return the number of calls that were not submitted yet."""
        return 0 if self._is_stopped else self._count - self._next

    # ---- for the user's thread ----

    def begin(self) -> None:
        """Submit the first batches, and have the continuation thread submit the others."""
        try:
            self._submit_some()
            if self._next >= self._count:
                self._add(None)
            else:
                self._engine.add_pending_source(self, self._follow_first)
        except BaseException:
            _cancel(self._in_flight)
            raise

    def results(self, deadline_s: float | None) -> Iterator[Any]:
        """Yield the batches in order. If iteration ends early, cancel the rest."""
        try:
            while (future := self._next_batch(deadline_s)) is not None:
                pending, future = [future], None
                yield _result_of(pending.pop(), deadline_s)
        finally:
            self.stop()

    def _next_batch(self, deadline_s: float | None) -> Future[Any] | None:
        news = self._news
        while not self._batches:
            # A future of ours, since code of users may run in a thread of the executor: there it goes on with its work meanwhile.
            news.result(None if deadline_s is None else max(deadline_s - monotonic(), 0.0))
            news = self._news
        batch = self._batches.popleft()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def stop(self) -> None:
        """Submit no more batches, and cancel those in flight."""
        self.cancel_rest()
        self._cancel_pending()

    def cancel_rest(self) -> None:
        """Submit no more batches. The iterator over the results ends with CancelledError where one is missing."""
        self._is_stopped = True
        self._engine.continuations.post(self._fill)

    def _cancel_pending(self) -> None:
        while self._batches:
            batch = self._batches.popleft()
            if isinstance(batch, Future):
                batch.cancel()

    # ---- for the continuation thread ----

    def _follow_first(self) -> None:
        for future in list(self._in_flight):
            self._follow(future)
        self._fill()

    def _follow(self, future: Future[Any]) -> None:
        future._post_when_done(self._engine.continuations, partial(self._on_done, future))

    def _on_done(self, future: Future[Any]) -> None:
        """Update the estimate, and submit more batches. After a cancelled batch no more are submitted."""
        size = self._in_flight.pop(future, 0)
        run_s = future.run_ns / 1e9
        if size and run_s > 0:
            item_s = run_s / size
            self._item_s = item_s if self._item_s == 0.0 else (self._item_s + item_s) / 2
        if future.cancelled():
            self._is_stopped = True
        self._fill()

    def _fill(self) -> None:
        """Submit batches until enough are in flight.

        The thread may get here inside of this method: pickling the function, or a finalizer, may run code of users that waits
        for a future. The outer call then does what the inner one wants.
        """
        self._wants_fill = True
        while self._wants_fill and not self._is_filling and not self._is_finished:
            self._wants_fill = False
            self._is_filling = True
            try:
                for future in self._submit_some():
                    self._follow(future)
            except BaseException as error:  # MemoryError, or what code of users raises
                self._error = error
                self._is_stopped = True
            finally:
                self._is_filling = False
        if (self._is_stopped or self._next >= self._count) and not self._is_filling and not self._is_finished:
            self._finish()

    def _finish(self) -> None:
        """Tell the user's thread that no more batches come. This may be repeated, as after MemoryError."""
        if self._error is None and self._next < self._count:
            self._error = CancelledError()
        self._add(self._error)
        self._engine.remove_pending_source(self)
        self._is_finished = True
        self._error = None  # it refers to frames, and these to this object

    # ---- for the thread that submits ----

    def _submit_some(self) -> list[Future[Any]]:
        submitted = []
        while not self._is_stopped and self._next < self._count and len(self._in_flight) < self._in_flight_max:
            submitted.append(self._submit_next())
        return submitted

    def _submit_next(self) -> Future[Any]:
        size = self._next_size()
        columns = self._columns.cut(self._next, self._next + size)
        future = self._engine.submit_batch(self._fn, columns, None)
        try:
            self._in_flight[future] = size
            self._add(future)
        except BaseException:  # no memory, or Ctrl-C in the user's thread
            future.cancel()
            raise
        self._next += size
        self._largest_size = max(self._largest_size, size)
        return future

    def _add(self, batch: Future[Any] | BaseException | None) -> None:
        """Add to what the user's thread reads, and wake it; both or neither."""
        news, next_news = self._news, self._new_news()
        self._batches.append(batch)
        self._news = next_news
        news.set_result(None)
        self._engine.dispatcher.wake_waiting_thread()

    def _new_news(self) -> Future[None]:
        news: Future[None] = Future()
        self._engine.dispatcher.adopt(news)
        return news

    def _next_size(self) -> int:
        if self._item_s == 0.0:
            return 1
        share = (self._count - self._next) // (SHARES_PER_WORKER * self._workers)
        return max(1, min(int(BATCH_S / self._item_s), GROWTH_MAX * self._largest_size, share))


def _results(pending: deque[Future[Any]], deadline_s: float | None) -> Iterator[Any]:
    """Yield results in order. If iteration ends early, cancel the remaining calls."""
    try:
        while pending:
            yield _result_of(pending.popleft(), deadline_s)
    finally:
        _cancel(pending)


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
