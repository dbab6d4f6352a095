"""Batches of a map whose size adapts to the run time of its calls.

    rows ─► a few batches in flight at a time ─► futures of the batches, in order: for the user's thread
             ▲                            │
             └── a batch has ended ◄──────┘   its run time determines the size of the next ones: in the continuation thread

All batches run the function as it was when the map was submitted. They grow until each takes about `BATCH_S`, and shrink
towards the end so that all workers finish together.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from pympipool._util.reprs import callable_name
from pympipool.execution.arrivals import Arrivals

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.execution.engine import Engine
    from pympipool.serialization.payload import PackedColumns

BATCH_S = 0.004
"""Target run time of a batch: a hundred times the cost of sending it, and short for a thread that waits for it."""

GROWTH_MAX = 8
"""Maximum ratio of the size of a batch to that of the largest before it: the first items may differ from the others."""

BATCHES_PER_WORKER = 2
"""Batches in flight for each worker: one that runs, and one to start when it ends."""

SHARES_PER_WORKER = 2
"""A batch has at most 1/SHARES_PER_WORKER of the items left for each worker, so that the last batches are small."""


class AdaptiveBatcher:
    """Submits the batches of one map, and adapts their size to their run time.

    The user's thread submits the first batches (`begin`). From then on all state belongs to the continuation thread, which
    submits one batch after the other. The user's thread takes the futures of the batches from a queue (`next`), and
    sets only `_is_stopped`.

    Args:
        engine: Submits the batches.
        fn: The function.
        columns: The arguments of its calls.
        count: Number of calls.
        workers: Number of workers.
        unordered: `next` returns batches in the order in which they end, instead of the order of their calls.
    """

    def __init__(
        self,
        engine: Engine,
        fn: Callable[..., Any],
        columns: PackedColumns,
        count: int,
        workers: int,
        *,
        unordered: bool = False,
    ) -> None:
        self._engine = engine
        self._fn = engine.freeze_function(fn)  # the last batch may be submitted in hours
        self.function_name = callable_name(fn)
        self._columns = columns
        self._count = count
        self._in_flight_max = BATCHES_PER_WORKER * workers
        self._workers = workers
        self._next = 0  # first row that was not submitted yet
        self._in_flight: dict[Future[Any], int] = {}  # size of each batch
        self._largest_size = 1
        self._item_s = 0.0  # estimated run time of one call; 0 before the first estimate
        self._unordered = unordered
        self._batches: Arrivals[Future[Any] | BaseException | None] = Arrivals(
            engine.dispatcher
        )  # exception, None: end
        self._error: BaseException | None = None  # why no more batches are submitted
        self._reason: BaseException | None = None  # why it is stopped; None: it was cancelled
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
            if self._next >= self._count and not self._in_flight_must_end:
                self._batches.put(None)
            else:
                self._engine.add_pending_source(self, self._follow_first)
        except BaseException:
            for future in list(self._in_flight):
                future.cancel()
            raise

    def next(self, deadline_s: float | None) -> Future[Any] | None:
        """Wait for the next batch, and return its future, or None after the last; raise what has ended the map."""
        batch = self._batches.get(deadline_s)
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def stop(self) -> None:
        """Submit no more batches, and cancel those in flight."""
        self.cancel_rest()
        for future in list(self._in_flight):
            future.cancel()

    def cancel_rest(self, reason: BaseException | None = None) -> None:
        """Submit no more batches. The iterator over the results ends with the reason, or CancelledError, where one is missing."""
        if not self._is_stopped:
            self._reason = reason
        self._is_stopped = True
        self._engine.continuations.post(self._fill)

    # ---- for the continuation thread ----

    def _follow_first(self) -> None:
        for future in list(self._in_flight):
            self._follow(future)
        self._fill()

    def _follow(self, future: Future[Any]) -> None:
        future._post_when_done(self._engine.continuations, partial(self._on_done, future))

    def _on_done(self, future: Future[Any]) -> None:
        """Update the estimate, and submit more batches. After a cancelled batch no more are submitted."""
        if self._unordered and future in self._in_flight:
            self._batches.put(future)
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
        is_last = self._is_stopped or self._next >= self._count
        if is_last and not (self._in_flight_must_end or self._is_filling or self._is_finished):
            self._finish()

    @property
    def _in_flight_must_end(self) -> bool:
        """True if batches in flight have yet to be told to the user's thread, before the end of all."""
        return self._unordered and bool(self._in_flight)

    def _finish(self) -> None:
        """Tell the user's thread that no more batches come. This may be repeated, as after MemoryError."""
        if self._error is None and self._next < self._count:
            self._error = self._reason or CancelledError()
        self._batches.put(self._error)
        self._engine.remove_pending_source(self)
        self._is_finished = True
        self._error = self._reason = None  # it refers to frames, and these to this object

    # ---- for the thread that submits ----

    def _submit_some(self) -> list[Future[Any]]:
        submitted: list[Future[Any]] = []
        if self._engine.is_drained:
            return submitted  # what is left will be counted by name, and `cancel_rest` called
        while not self._is_stopped and self._next < self._count and len(self._in_flight) < self._in_flight_max:
            submitted.append(self._submit_next())
        return submitted

    def _submit_next(self) -> Future[Any]:
        size = self._next_size()
        columns = self._columns.cut(self._next, self._next + size)
        future = self._engine.submit_batch(self._fn, columns, None)
        try:
            self._in_flight[future] = size
            if not self._unordered:
                self._batches.put(future)
        except BaseException:  # no memory, or Ctrl-C in the user's thread
            future.cancel()
            raise
        self._next += size
        self._largest_size = max(self._largest_size, size)
        return future

    def _next_size(self) -> int:
        if self._item_s == 0.0:
            return 1
        share = (self._count - self._next) // (SHARES_PER_WORKER * self._workers)
        return max(1, min(int(BATCH_S / self._item_s), GROWTH_MAX * self._largest_size, share))
