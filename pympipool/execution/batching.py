"""`Executor.map`: calls over iterables, in batches, results in order.

    items ─► AdaptiveBatcher: a few batches under way at a time ─► results, one after the other as they are asked for
                ▲                            │
                └── a batch has ended ◄──────┘   how long it took says how large the next ones are

Batches of a given chunksize are submitted all at once; those that the feeder makes grow until each takes about
`BATCH_S`, and shrink towards the end so that all workers end together. A batch ends with its first exception, and
what was returned before arrives: to the user it makes no difference how calls were packed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future as StandardFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool._core.sequences import OneByOne
from pympipool.execution.dependencies import find_futures
from pympipool.serialization.exceptions import load_exception
from pympipool.serialization.payload import all_immutable

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.execution.engine import Engine
    from pympipool.resources import Resources

BATCH_S = 0.004
"""Time that a batch should take: hundred times what sending it costs, and short for whoever waits."""

GROWTH_MAX = 8
"""Times that a batch may be larger than the largest before it: the first items may not be like the others."""

BATCHES_PER_WORKER = 2
"""Under way at a time: one that runs, one that is there when it ends."""

SHARES_PER_WORKER = 2
"""A batch is at most this part of what is left for a worker, so that the last ones are small."""


class ArgumentColumns:
    """The arguments of the calls of a map, as lists; with several iterables as long as the shortest."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        if len(iterables) == 1:
            self.lists = [list(iterables[0])]
        else:
            self.lists = [list(column) for column in zip(*zip(*iterables, strict=False), strict=True)]

    def __len__(self) -> int:
        return len(self.lists[0]) if self.lists else 0

    def have_futures(self) -> bool:
        """Whether there are futures among the arguments: then calls must wait for them one by one."""
        return bool(find_futures(tuple(self.lists), {}))

    def all_immutable(self) -> bool:
        """Whether nobody can change an argument.

        Those of a batch are one pickle: what is one object in two of its calls is one in the worker, and what the first call
        did to it, the second would find.
        """
        return all(map(all_immutable, self.lists))

    def cut(self, begin: int, end: int) -> tuple[Sequence[Any], ...]:
        """The columns of a batch."""
        return tuple(column[begin:end] for column in self.lists)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The arguments of one call after the other."""
        return zip(*self.lists, strict=True)


def one_by_one(
    submit: Callable[..., Future[Any]], fn: Callable[..., Any], columns: ArgumentColumns, deadline_s: float | None
) -> Iterator[Any]:
    """Each call by itself; all are submitted now."""
    pending = deque(submit(fn, *row) for row in columns.rows())
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
    """Batches of chunksize calls; all are submitted now, each as soon as it is full.

    Args:
        submit: For single calls: those of a chunk in which there are futures to be waited for.
    """
    pending: deque[Future[Any]] = deque()
    are_batches: list[bool] = []
    try:
        for columns in _chunks(iterables, chunksize):
            if find_futures(columns, {}):
                singles = [submit(fn, *row) for row in zip(*columns, strict=True)]
                pending += singles
                are_batches += [False] * len(singles)
            else:
                pending.append(engine.submit_batch(fn, columns, resources))
                are_batches.append(True)
    except BaseException:  # also what an iterable raises
        _cancel(pending)
        raise
    results = zip(_results(pending, deadline_s), are_batches, strict=True)
    batches = (result if is_batch else ([result], None) for result, is_batch in results)
    return Results(batches, lambda: _cancel(pending))


def _chunks(iterables: Sequence[Iterable[Any]], chunksize: int) -> Iterator[tuple[Sequence[Any], ...]]:
    """The arguments of chunksize calls at a time, as columns."""
    if len(iterables) == 1:
        column = iter(iterables[0])
        while items := list(islice(column, chunksize)):
            yield (items,)
    else:
        rows = zip(*iterables, strict=False)
        while some := list(islice(rows, chunksize)):
            yield tuple(zip(*some, strict=True))


def in_adaptive_batches(
    engine: Engine, fn: Callable[..., Any], columns: ArgumentColumns, workers: int, deadline_s: float | None
) -> Iterator[Any]:
    """Batches of as many calls as take about BATCH_S; submitted as others end, whether or not results are asked for."""
    feeder = AdaptiveBatcher(engine, fn, columns, workers)
    feeder.feed()
    return Results(feeder.results(deadline_s), feeder.stop)


class AdaptiveBatcher:
    """Submits the batches of one map.

    Used by the thread that iterates and by those that end futures.
    """

    def __init__(self, engine: Engine, fn: Callable[..., Any], columns: ArgumentColumns, workers: int) -> None:
        self._engine = engine
        self._fn = fn
        self._columns = columns
        self._count = len(columns)
        self._workers = workers
        self._next = 0  # the first item that was not submitted
        self._sizes: dict[StandardFuture[Any], int] = {}  # batches under way
        self._largest = 1
        self._item_s = 0.0  # estimate of one call; 0: none yet
        self._pending: deque[Future[Any]] = deque()
        self._lock = threading.RLock()
        self._feeding = False
        self._finished = False
        engine.hold(self)

    def __len__(self) -> int:
        """Number of calls that were not submitted yet."""
        return self._count - self._next

    def feed(self) -> None:
        """Submits batches until enough are under way."""
        with self._lock:
            if self._feeding or self._finished:
                return  # a batch that fails at once calls back from within
            self._feeding = True
            try:
                while self._next < self._count and len(self._sizes) < BATCHES_PER_WORKER * self._workers:
                    self._submit_one()
            finally:
                self._feeding = False
            if self._next >= self._count:
                self._finish()

    def _submit_one(self) -> None:
        size = self._next_size()
        columns = self._columns.cut(self._next, self._next + size)
        future = self._engine.submit_batch(self._fn, columns, None)
        self._next += size
        self._largest = max(self._largest, size)
        self._sizes[future] = size
        self._pending.append(future)
        future._add_internal_callback(self._on_done)

    def _next_size(self) -> int:
        if self._item_s == 0.0:
            return 1
        fair = (self._count - self._next) // (SHARES_PER_WORKER * self._workers)
        return max(1, min(int(BATCH_S / self._item_s), GROWTH_MAX * self._largest, fair))

    def _on_done(self, future: StandardFuture[Any]) -> None:
        """Learns from a batch that has ended, once, and feeds on; not after one that was cancelled."""
        with self._lock:
            size = self._sizes.pop(future, 0)
            run_s = getattr(future, "run_ns", 0) / 1e9
            if size and run_s > 0:
                item_s = run_s / size
                self._item_s = item_s if self._item_s == 0.0 else (self._item_s + item_s) / 2
            if future.cancelled():
                self._next = self._count
            self.feed()

    def _finish(self) -> None:
        """Nothing is left to be submitted: the executor may end when it likes."""
        self._finished = True
        self._engine.release(self)

    def results(self, deadline_s: float | None) -> Iterator[Any]:
        """Yields the batches in order; whatever ends it early cancels those that are left."""
        try:
            while self._pending:
                future = self._pending.popleft()
                batch = _result_of(future, deadline_s)
                self._on_done(future)
                yield batch
        finally:
            self.stop()

    def stop(self) -> None:
        """Submits no more batches, and cancels those under way."""
        with self._lock:
            self._next = self._count
            self.feed()
        _cancel(self._pending)


def _results(pending: deque[Future[Any]], deadline_s: float | None) -> Iterator[Any]:
    """Yields results in order; whatever ends it early cancels the calls that are left."""
    try:
        while pending:
            yield _result_of(pending.popleft(), deadline_s)
    finally:
        _cancel(pending)


def _cancel(pending: Iterable[Future[Any]]) -> None:
    for future in list(pending):
        future.cancel()


def _result_of(future: Future[Any], deadline_s: float | None) -> Any:
    """The result of a future, which is not referred to any more when this returns."""
    try:
        if deadline_s is None:
            return future.result()
        return future.result(max(deadline_s - monotonic(), 0.0))
    except FutureTimeoutError:
        future.cancel()
        raise
    finally:
        del future


class Results(OneByOne):
    """The results of the calls one by one; raises what one of them raised in its place."""

    def __init__(self, batches: Iterator[Any], cancel: Callable[[], None]) -> None:
        self._batches = _lists(batches)
        self._cancel = cancel
        super().__init__(self._batches)

    def close(self) -> None:
        """Cancels the batches that are left."""
        self._batches.close()
        self._cancel()  # a generator that was never asked for anything has nothing to end


def _lists(batches: Iterator[Any]) -> Generator[list[Any], None, None]:
    for results, error in batches:
        yield results
        if error is not None:
            raise load_exception(error)
