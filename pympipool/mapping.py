"""`Executor.map`: calls over iterables, in chunks, results in order.

    iterables ─► chunks ─► submit each ─► results one after the other, as they are asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice
from time import monotonic
from typing import Any


def run_chunk(fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> list[Any]:
    """Runs fn with each tuple of arguments; in the worker."""
    return [fn(*args) for args in chunk]


def map_calls(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout: float | None,
    chunksize: int,
) -> Iterator[Any]:
    """Submits all calls now and returns an iterator over their results (see `Executor.map`)."""
    if isinstance(chunksize, bool) or not isinstance(chunksize, int):
        raise TypeError(f"chunksize is {chunksize!r}; it must be an integer")
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")  # the standard library's words
    deadline_s = None if timeout is None else monotonic() + timeout
    calls = zip(*iterables)  # noqa: B905  like map(), it ends with the shortest
    if chunksize == 1:
        return _results([submit(fn, *args) for args in calls], deadline_s)
    chunks = iter(lambda: list(islice(calls, chunksize)), [])
    pending = [submit(run_chunk, fn, chunk) for chunk in chunks]
    return _flattened(_results(pending, deadline_s))


def _results(pending: list[Future[Any]], deadline_s: float | None) -> Iterator[Any]:
    """Yields results in order; whatever ends it early cancels the calls that are left."""
    pending.reverse()
    try:
        while pending:
            yield _result_of(pending.pop(), deadline_s)
    finally:
        for future in pending:
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


def _flattened(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()
