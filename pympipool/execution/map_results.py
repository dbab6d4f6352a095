"""The results of a map: in the order of the calls, or as they come.

    calls to submit ─► Submission: all now, or so many ahead of the reader ─► results, one by one as the user asks for them
                         └─ InOrder, or AsCompleted: the next future to read

A map that ends early, by an exception, a timeout or `close`, cancels the calls that have not begun.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pympipool._core.future import Future as OwnFuture
from pympipool._core.sequences import ConsumingIterator, without_own_frames
from pympipool.execution.arrivals import Arrivals
from pympipool.serialization.exceptions import add_note, load_exception

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

HAS_NOTES = sys.version_info >= (3, 11)
"""Tracebacks show the notes of exceptions."""

Submitted: TypeAlias = "tuple[Future[Any], int]"
"""A future, and the number of calls if it is that of a batch; 0 for a single call."""


class Unread(Protocol):
    """The submitted calls that the user has not read."""

    def put(self, call: Submitted) -> None:
        """Add a call that was submitted."""

    def next(self, deadline_s: float | None) -> Submitted:
        """Remove and return the next call to read."""

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""

    def __bool__(self) -> bool: ...


class InOrder:
    """Submitted calls, to be read in the order of their submission."""

    def __init__(self) -> None:
        self._calls: deque[Submitted] = deque()

    def put(self, call: Submitted) -> None:
        """Add a call that was submitted."""
        self._calls.append(call)

    def next(self, deadline_s: float | None) -> Submitted:
        """Remove and return the call that was submitted first."""
        return self._calls.popleft()

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""
        cancel_all([future for future, _ in self._calls])

    def __bool__(self) -> bool:
        return bool(self._calls)


class AsCompleted:
    """Submitted calls, to be read in the order in which they end."""

    def __init__(self, engine: Engine) -> None:
        self._sizes: dict[Future[Any], int] = {}
        self._mailbox = engine.continuations
        self._ended: Arrivals[Future[Any]] = Arrivals(engine.dispatcher)

    def put(self, call: Submitted) -> None:
        """Add a call that was submitted."""
        future, size = call
        self._sizes[future] = size
        if isinstance(future, OwnFuture):
            future._post_when_done(self._mailbox, partial(self._ended.put, future))
        else:  # a subclass of Executor submits elsewhere
            future.add_done_callback(lambda _: self._mailbox.post(partial(self._ended.put, future)))

    def next(self, deadline_s: float | None) -> Submitted:
        """Wait for the next call that ends, remove and return it."""
        future = self._ended.get(deadline_s)
        return future, self._sizes.pop(future)

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""
        cancel_all(self._sizes)

    def __bool__(self) -> bool:
        return bool(self._sizes)


class Submission:
    """Submits the calls of a map, and returns their results.

    Args:
        calls: Submits a call, or a batch, each time that it is advanced.
        ahead: Number of calls or batches that are submitted and not read; None: all are submitted now.
        unread: An empty one.

    Attributes:
        total: Number of calls; None as long as it is not known.
    """

    def __init__(self, calls: Iterator[Submitted], ahead: int | None, unread: Unread) -> None:
        self._calls: Iterator[Submitted] | None = calls
        self._unread = unread
        self._submitted = 0
        self.total: int | None = None
        self._error: Exception | None = None
        self._shared: object = (
            None  # the shared data in the results of the batch that is read, which are unpickled one by one
        )
        try:
            self._submit(ahead)
        except BaseException:  # of an iterable, for example
            unread.cancel()
            raise

    def results(self, deadline_s: float | None) -> Generator[tuple[Any, Any], None, None]:
        """Yield the results of batches and, as lists of one, of single calls; keep no reference to them."""
        try:
            while self._unread:
                yield self._next(deadline_s)
            if self._error is not None:
                raise self._error
        finally:
            self._unread.cancel()
            self._calls = self._error = self._shared = None

    def cancel(self) -> None:
        """Cancel the calls that have not begun."""
        self._unread.cancel()

    def _next(self, deadline_s: float | None) -> tuple[Any, Any]:
        future, size = self._unread.next(deadline_s)
        result = result_of(future, deadline_s)
        self._shared = getattr(future, "shared", None)
        del future
        try:
            self._submit(1)
        except Exception as error:  # of an iterable, or the executor is closed: the results before it come first
            self._error, self._calls = error, None
        return result if size else ([result], None)

    def _submit(self, count: int | None) -> None:
        if self._calls is None:
            return
        before = self._submitted
        for call in islice(self._calls, count):
            self._unread.put(call)
            self._submitted += call[1] or 1
        if count is None or self._submitted == before:
            self.total, self._calls = self._submitted, None


def result_of(future: Future[Any], deadline_s: float | None) -> Any:
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


def lasting_results(futures: list[Future[Any]], deadline_s: float | None, *, unordered: bool) -> Iterator[Any]:
    """Yield the results of calls that outlive the iteration: whatever ends it, they go on."""
    if unordered:
        futures = as_completed(futures, None if deadline_s is None else max(deadline_s - monotonic(), 0.0))  # type: ignore[assignment]
    for future in futures:
        if deadline_s is None:
            yield future.result()
        else:
            yield future.result(max(deadline_s - monotonic(), 0.0))


def cancel_all(futures: Any) -> None:
    """Cancel those of these futures that have not begun."""
    for future in list(futures):
        future.cancel()


@without_own_frames
class Results(ConsumingIterator):
    """An iterator over the results of a map, call by call.

    Where a call failed, the iterator raises its exception instead of returning a result.

    Args:
        batches: Yields a list of results, and the parts of the exception that came after them or None.
        cancel: Cancels the calls that have not begun.
        total: Returns the number of calls, if it is known.
        kept_in: Returns the directory in which the results are kept; None if they are in none.
    """

    def __init__(
        self,
        batches: Iterator[tuple[Any, Any]],
        cancel: Callable[[], None],
        total: Callable[[], int | None],
        kept_in: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._batches = _result_lists(batches, total, kept_in)
        self._cancel = cancel
        super().__init__(self._batches)

    def close(self) -> None:
        """Cancel the remaining calls."""
        self._batches.close()
        self._cancel()  # closing a generator that was never started does not run its `finally`


def _list_of_one(value: Any) -> list[Any]:
    return [value]


def _result_lists(
    batches: Iterator[tuple[Any, Any]], total: Callable[[], int | None], kept_in: Callable[[], str | None]
) -> Generator[list[Any], None, None]:
    """Yield the list of results of each batch, and raise the exception that ended it."""
    returned = 0
    try:
        for results, error in batches:
            count = len(results)
            if type(results) is list:
                yield results
            else:
                yield from map(_list_of_one, results)  # a loop's variable would keep the last result alive
            returned += count
            if error is not None:
                raise load_exception(error)
    except GeneratorExit:
        raise
    except BaseException as raised:
        if returned > 0:
            _tell_count(raised, returned, total(), kept_in())
        raise


def _tell_count(error: BaseException, returned: int, total: int | None, kept_in: str | None) -> None:
    """Add to an exception that ends an iteration how many results had come, and where they are."""
    results = f"{returned} results" if total is None else f"{returned} of {total} results"
    if kept_in is None:
        where = ". If you passed it to list(), they are lost: collect them in a loop, or give the executor a cache_directory"
    else:
        where = f"; they are kept in {kept_in!r}: run the script again, and it goes on from there"
    note = f"map() had returned {results}{where}"
    if HAS_NOTES:
        add_note(error, note)
        return
    try:
        warnings.warn(note, RuntimeWarning, stacklevel=4)
    except RuntimeWarning:  # warnings are errors: the exception of the call is more important
        add_note(error, note)
