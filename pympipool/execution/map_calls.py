"""A map as the user asks for it: its options are checked, its iterables read, and its calls submitted.

Executor.map     ─► MapCalls ─► columns(iterables) ─┬─► submit(arguments) ─► results
Executor.starmap ─►             rows(iterable)     ─┘     (`batching.py`)      (`map_results.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from time import monotonic
from typing import TYPE_CHECKING, Any

from pympipool.execution.batching import MapOptions, submit_map
from pympipool.execution.engine import Engine
from pympipool.execution.map_arguments import Arguments
from pympipool.execution.map_results import lasting_results, result_of
from pympipool.resources import Resources
from pympipool.resources.validation import flag

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.execution.interfaces import MapCache
    from pympipool.execution.workerless import WorkerlessEngine


class MapCalls:
    """The calls of one map.

    Args:
        fn: The function.
        engine: That of the executor.
        resources: What each call needs.
        workers: Number of workers that serve many calls; None if each call has its own worker.
        timeout, chunksize, buffersize, unordered: As of `Executor.map`.
        cache: Answers calls, and stores the results of the others; or None.

    Raises:
        ValueError, TypeError: An option is wrong, or fn is not callable.
        RuntimeError: The engine takes no calls.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        engine: Engine | WorkerlessEngine,
        resources: Resources,
        workers: int | None,
        *,
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        unordered: bool,
        cache: MapCache | None = None,
    ) -> None:
        deadline_s = None if timeout is None else monotonic() + timeout
        if chunksize is not None:
            chunksize = check_chunksize(chunksize)
        if buffersize is not None:
            check_buffersize(buffersize)
        flag("unordered", unordered)
        engine.check_usable(fn)
        self.fn = fn
        self._engine = engine
        self._options = MapOptions(resources, workers, chunksize, buffersize, unordered, deadline_s, cache)

    def columns(self, iterables: Iterable[Iterable[Any] | futures.Future[Any]]) -> Arguments:
        """Return the arguments of calls from an iterable for each parameter. Those that are futures are waited for."""
        return Arguments([self._items(one) for one in iterables])

    def rows(self, iterable: Iterable[Any] | futures.Future[Any]) -> Arguments:
        """Return the arguments of calls from an iterable of the arguments of each. If it is a future, it is waited for."""
        return Arguments((), self._items(iterable))

    def count(self, arguments: Arguments) -> int | None:
        """Return the number of calls; None if the arguments are read as results are taken."""
        return arguments.count() if self._options.buffersize is None else None

    def submit(
        self,
        arguments: Arguments,
        submit: Callable[..., Future[Any]],
        engine: Engine | None = None,
        on_answered: Callable[[int], object] | None = None,
    ) -> Iterator[Any]:
        """Submit the calls, and return an iterator over the results.

        Args:
            submit: Submits a single call.
            engine: Submits batches. Default: the executor's engine, if it has workers.
            on_answered: As of `submit_map`.
        """
        if engine is None and isinstance(self._engine, Engine):
            engine = self._engine
        return submit_map(self.fn, self._options, arguments, submit, engine, on_answered)

    def submit_together(
        self, arguments: Arguments, submit_map: Callable[..., list[futures.Future[Any]]]
    ) -> Iterator[Any]:
        """Submit the calls at once to an engine whose calls outlive the iteration, and return an iterator over the results.

        Args:
            submit_map: Gets the function, the arguments of each call, the size of the chunks, and what each call needs.

        Raises:
            ValueError: The calls are to be submitted as results are taken.
        """
        options = self._options
        if options.buffersize is not None:
            raise ValueError(
                f"buffersize is {options.buffersize}; with detached=True all calls are submitted as one job array: leave it out"
            )
        submitted = submit_map(self.fn, arguments.rows(), options.chunksize or 1, options.resources)
        return lasting_results(submitted, options.deadline_s, unordered=options.unordered)

    def _items(self, iterable: Iterable[Any] | futures.Future[Any]) -> Iterable[Any]:
        if not isinstance(iterable, futures.Future):
            return iterable
        self._engine.check_resolves("map")
        return result_of(iterable, self._options.deadline_s)  # type: ignore[no-any-return]  # what a future holds is not known


def check_chunksize(chunksize: Any) -> int:
    """Check the parameter `chunksize` of `map`."""
    if not isinstance(chunksize, bool) and isinstance(chunksize, int) and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")  # the message of the standard library
    return int(Resources.check("cores", chunksize, "chunksize"))


def check_buffersize(buffersize: Any) -> None:
    """Check the parameter `buffersize` of `map`."""
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")  # the messages of the standard library
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
