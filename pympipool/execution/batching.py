"""`Executor.map`: calls over iterables, in batches where that makes no difference to the user.

    arguments ─┬─► single calls: each by itself                            ─┬─► results (`map_results.py`)
               ├─► batches of a given size, each as soon as it is full      ─┤
               └─► `adaptive_batches.py`: a few batches in flight at a time ─┘

With a cache, all arguments are looked up first, and only calls that are not answered go this way (`map_answers.py`).

A batch ends with its first exception, and the results before it arrive: to the user it makes no difference how calls
were packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool.execution.adaptive_batches import AdaptiveBatcher
from pympipool.execution.map_answers import merged
from pympipool.execution.map_results import AsCompleted, InOrder, Results, Submission, result_of

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.execution.engine import Engine
    from pympipool.execution.interfaces import MapCache
    from pympipool.execution.map_arguments import Arguments, Chunk
    from pympipool.execution.map_results import Submitted
    from pympipool.resources import Resources
    from pympipool.serialization.payload import PackedColumns


ResultLists: TypeAlias = "tuple[Iterator[tuple[Any, Any]], Callable[[], None], Callable[[], int | None]]"
"""The arguments of `Results`."""


@dataclass(frozen=True)
class MapOptions:
    """How the calls of a map are sent and read; see `Executor.map`.

    Attributes:
        resources: What each call needs.
        workers: Number of workers that serve many calls; None if each call has its own worker.
        chunksize: Number of calls that are sent together; None: as measured.
        buffersize: Number of calls or batches that are submitted and not read; None: all calls are submitted now.
        unordered: Results are returned as they come.
        deadline_s: When the last result must have arrived (monotonic clock, s); None: no limit.
        cache: Answers calls, and stores the results of the others; or None.
    """

    resources: Resources
    workers: int | None
    chunksize: int | None
    buffersize: int | None
    unordered: bool
    deadline_s: float | None
    cache: MapCache | None = None

    @property
    def batch_size(self) -> int:
        """The size of the batches that the user wants; 1: single calls, or batches as measured."""
        is_single = self.chunksize is None or self.resources.cores > 1 or self.resources.retries > 0
        return 1 if is_single or self.chunksize is None else self.chunksize

    @property
    def may_adapt(self) -> bool:
        """True if the size of the batches may follow the run time of the calls."""
        return (
            self.workers is not None
            and self.chunksize is None
            and self.buffersize is None
            and self.resources.cores == 1
            and self.resources.run_time_max is None
            and not self.resources.restart_limit
            and not self.resources.retries
        )


def submit_map(
    fn: Callable[..., Any],
    options: MapOptions,
    arguments: Arguments,
    submit: Callable[..., Future[Any]],
    engine: Engine | None,
    on_answered: Callable[[int], object] | None = None,
) -> Iterator[Any]:
    """Submit the calls of a map.

    Args:
        submit: Submits a single call.
        engine: Submits batches; None if it has no workers, and a call ends while it is submitted.
        on_answered: Gets the number of calls that are answered from the cache, and are neither submitted singly nor in batches.

    Returns:
        An iterator over the results.
    """
    if options.cache is not None:
        return _submit_cached(fn, options, options.cache, arguments, submit, engine, on_answered)
    if engine is not None and options.batch_size > 1:
        calls = _batches(engine, submit, fn, arguments.chunks(options.batch_size), options.resources)
    elif options.buffersize is not None:
        calls = _single_calls(submit, fn, arguments.rows())
    else:
        chunk = arguments.take()
        if engine is not None:
            engine.check_open()  # an iterable may have closed the executor
            packed = chunk.packed(engine.workers_see_files) if options.may_adapt else None
            if packed is not None:
                return Results(*_in_adaptive_batches(engine, fn, packed, len(chunk), options))
        calls = _single_calls(submit, fn, chunk.rows())
    return Results(*_submitted(calls, options, engine))


def _submit_cached(
    fn: Callable[..., Any],
    options: MapOptions,
    cache: MapCache,
    arguments: Arguments,
    submit: Callable[..., Future[Any]],
    engine: Engine | None,
    on_answered: Callable[[int], object] | None,
) -> Iterator[Any]:
    """Look the calls up together, and submit those that are not answered in batches; or one by one, where batches cannot be."""
    kept_in = partial(cache.directory_for, fn)
    may_batch = options.buffersize is None and (options.batch_size > 1 or options.may_adapt)
    if engine is None or not may_batch:
        return Results(*_submitted(_single_calls(submit, fn, arguments.rows()), options, engine), kept_in)
    chunk = arguments.take()
    engine.check_open()  # an iterable may have closed the executor
    answers = cache.look_up(fn, list(chunk.rows()), options.resources)
    if answers is None:
        return Results(*_submitted(_single_calls(submit, fn, chunk.rows()), options, engine), kept_in)
    numbers = [number for is_answered, *run in answers.runs() if not is_answered for number in range(*run)]
    if on_answered is not None:
        on_answered(len(chunk) - len(numbers))
    missing = chunk.select(numbers)
    storing = answers.engine(engine)
    is_adaptive = bool(numbers) and options.batch_size == 1
    packed = missing.packed(engine.workers_see_files, in_full=True) if is_adaptive else None
    if packed is not None:
        submitted = _in_adaptive_batches(storing, fn, answers.keyed(packed), len(numbers), options)
    elif options.batch_size > 1:
        chunks = missing.chunks(options.batch_size)
        submitted = _submitted(_batches(storing, submit, fn, chunks, options.resources, answers.keyed), options, engine)
    else:
        submitted = _submitted(_single_calls(submit, fn, missing.rows()), options, engine)
    batches, cancel, _ = submitted
    return Results(merged(answers, batches, unordered=options.unordered), cancel, lambda: len(chunk), kept_in)


def _submitted(calls: Iterator[Submitted], options: MapOptions, engine: Engine | None) -> ResultLists:
    """Submit calls as their generator makes them."""
    unread = InOrder() if engine is None or not options.unordered else AsCompleted(engine)
    submission = Submission(calls, options.buffersize, unread)
    return submission.results(options.deadline_s), submission.cancel, lambda: submission.total


def _single_calls(
    submit: Callable[..., Future[Any]], fn: Callable[..., Any], rows: Iterable[tuple[Any, ...]]
) -> Iterator[Submitted]:
    for row in rows:
        yield submit(fn, *row), 0


def _batches(
    engine: Engine,
    submit: Callable[..., Future[Any]],
    fn: Callable[..., Any],
    chunks: Iterator[Chunk],
    resources: Resources,
    keyed: Callable[[PackedColumns, int], PackedColumns] | None = None,
) -> Iterator[Submitted]:
    """Submit each chunk as a batch, or call by call if it cannot be one.

    Args:
        keyed: As of `MapAnswers`.
    """
    begin = 0
    for chunk in chunks:
        engine.check_open()  # an iterable may have closed the executor
        packed = chunk.packed(engine.workers_see_files, for_now=True, in_full=keyed is not None)
        if packed is not None:
            columns = packed if keyed is None else keyed(packed, begin)
            yield engine.submit_batch(fn, columns, resources), len(chunk)
        else:
            yield from _single_calls(submit, fn, chunk.rows())
        begin += len(chunk)


def _in_adaptive_batches(
    engine: Engine, fn: Callable[..., Any], columns: PackedColumns, count: int, options: MapOptions
) -> ResultLists:
    """Submit batches that take about `BATCH_S` each, as others end, whether or not the user iterates over the results."""
    batcher = AdaptiveBatcher(engine, fn, columns, count, options.workers or 1, unordered=options.unordered)
    batcher.begin()
    return _results_of_batches(batcher, options.deadline_s), batcher.stop, lambda: count


def _results_of_batches(batcher: AdaptiveBatcher, deadline_s: float | None) -> Iterator[Any]:
    """Yield the results of batches. If iteration ends early, cancel the rest."""
    try:
        while (future := batcher.next(deadline_s)) is not None:
            pending, future = [future], None
            yield result_of(pending.pop(), deadline_s)
    finally:
        batcher.stop()
