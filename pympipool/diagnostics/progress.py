"""Progress bars over calls, drawn by tqdm in terminals and notebooks.

    progress(futures)          ─┐
                                ├─► Bar ◄── step: a future has ended; called by the thread for callbacks
    map(..., progress=True)    ─┘

The bar counts calls as they end, in any order, not as their results are requested. Only this module imports tqdm, and
without a bar nothing is observed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine
    from pympipool.serialization.payload import PackedColumns

T = TypeVar("T")

REFRESH_INTERVAL_S = 0.1
"""Interval at which the bar is refreshed while no call ends. tqdm does not draw more often either."""


def progress(futures: Iterable[Future[T]], **options: Any) -> list[Future[T]]:
    """Wait for calls, and show a progress bar meanwhile.

    Args:
        futures: Futures of any executor of `concurrent.futures`.
        **options: As for `tqdm.auto.tqdm`, which draws the bar: desc, unit, leave, file, disable, ...

    Returns:
        The futures, all of which have ended. Failed calls are counted on the bar; their exceptions are not raised here.

    Raises:
        ImportError: tqdm is not installed.
        TypeError: One of the futures is something else.

    Examples:
        >>> from pympipool import Executor, progress
        >>> with Executor(max_workers=1, block_allocation=True) as exe:
        ...     calls = [exe.submit(pow, 2, n) for n in range(4)]
        ...     [call.result() for call in progress(calls, desc="powers", disable=True)]
        [1, 2, 4, 8]
    """
    pending = list(futures)
    for future in pending:
        if not hasattr(future, "add_done_callback"):
            raise TypeError(
                f"there is {future!r:.200}, of type {type(future).__name__}, among the futures; progress() waits for futures, which"
                " submit() returns (for a dict, pass its values())"
            )
    with Bar(len(pending), options) as bar:
        for future in pending:
            bar.watch(future)
        for future in pending:
            while not future.done():
                try:
                    future.exception(REFRESH_INTERVAL_S)  # a thread that waits here also makes progress on results
                except (FutureTimeoutError, CancelledError):
                    bar.refresh()
    return pending


class Bar:
    """A progress bar over calls. Any thread may end the calls; the bar closes itself with the last one.

    Args:
        total: Number of calls; None if it is not known.
        options: As for `tqdm.auto.tqdm`.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self, total: int | None, options: dict[str, Any]) -> None:
        tqdm = _tqdm()
        self._lock = threading.RLock()  # reentrant: a signal handler may end a future while its thread is in `_step`
        self._remaining: float = math.inf if total is None else total
        self._failed = 0
        self._watched: dict[Future[Any], int] = {}  # calls of each future that is not counted yet
        self._bar = tqdm(**{"total": total, "unit": " calls", **options})
        if total == 0:
            self.close()

    def watch(self, future: Future[Any], calls: int = 1) -> None:
        """Count calls as soon as their future has ended."""
        self._watched[future] = calls
        future.add_done_callback(self._step)

    def add(self, calls: int) -> None:
        """Count calls that have no future."""
        if calls:
            answered: Future[Any] = Future()
            answered.set_result(None)
            self.watch(answered, calls)

    def refresh(self) -> None:
        """Redraw the bar with the elapsed time."""
        with self._lock:
            if self._remaining > 0:
                self._bar.refresh()

    def close(self) -> None:
        """Count the calls that have ended by now, and close the bar. It stays as it is."""
        with self._lock:
            for future in list(self._watched):
                if future.done():
                    self._step(future)
            self._remaining = 0
            self._bar.close()

    def close_if_free(self) -> None:
        """Close the bar unless another thread uses it.

        For finalizers, which run in any thread and must not wait for a lock.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self, future: Future[Any]) -> None:
        with self._lock:
            calls = self._watched.pop(future, 0)
            if self._remaining <= 0 or calls == 0:
                return
            if _has_failed(future):
                self._failed += 1
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
                self._mark_failed()
            self._remaining -= calls
            self._bar.update(self._progress_of(future, calls))
            if self._remaining <= 0:
                self.close()

    def _progress_of(self, future: Future[Any], calls: int) -> int:
        return calls

    def _mark_failed(self) -> None:
        """Mark the bar as failed in a notebook, where the widget would otherwise turn green. The text has no colour."""
        draw_widget = getattr(self._bar, "disp", None)
        if draw_widget is not None:
            draw_widget(bar_style="danger")


def _has_failed(future: Future[Any]) -> bool:
    if future.cancelled():
        return False
    has_result = getattr(future, "has_result", None)  # pympipool's futures know that without unpickling the result
    return future.exception() is not None if has_result is None else not has_result


class MapBar(Bar):
    """A progress bar over the calls of a map. They are only cancelled if the map ends early, which is no progress."""

    def _progress_of(self, future: Future[Any], calls: int) -> int:
        return 0 if future.cancelled() else calls


class ResultsWithProgress(Iterator[T]):
    """The results of a map with a progress bar, which is closed when the results end.

    Args:
        results: Results of the map.
        bar: Bar of the map.
    """

    def __init__(self, results: Iterator[T], bar: Bar) -> None:
        self._results = results
        self._bar = bar
        self._is_iterating = False

    def __next__(self) -> T:
        self._is_iterating = True
        try:
            return next(self._results)
        except BaseException:  # StopIteration, or an exception of a call: no result follows
            self._bar.close()
            raise

    def close(self) -> None:
        """Cancel the remaining calls."""
        self._bar.close()
        close = getattr(self._results, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        if self._is_iterating:  # a loop was left, so the remaining calls are cancelled; without a loop, all calls run
            self._bar.close_if_free()


class ObservedEngine:
    """An engine as a map uses it, which reports the batches to a bar."""

    def __init__(self, engine: Engine, bar: Bar) -> None:
        self._engine = engine
        self._bar = bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit_batch(self, fn: Callable[..., Any], columns: PackedColumns, resources: Any) -> Future[Any]:
        """Submit a batch like `Engine.submit_batch`, and count it on the bar."""
        future = self._engine.submit_batch(fn, columns, resources)
        self._bar.watch(future, len(columns[0]))
        return future

    def submit_map(self, *map_of_detached: Any) -> list[Future[Any]]:
        """Submit all calls at once, to an engine of detached calls, and count them on the bar."""
        futures: list[Future[Any]] = cast("Any", self._engine).submit_map(*map_of_detached)
        for future in futures:
            self._bar.watch(future)
        return futures


def with_progress(
    make_results: Callable[[Callable[..., Any], Engine, Callable[[int], None]], Iterator[T]],
    submit: Callable[..., Future[Any]],
    engine: Engine,
    total: int | None,
    options: dict[str, Any],
) -> Iterator[T]:
    """Run a map with a progress bar, and return its results.

    Args:
        make_results: Starts the map, with a function that submits one call, an engine that submits batches, and a function that
            gets the number of calls that are answered without either.
        submit: Submits one call.
        engine: Submits batches.
        total: Number of calls; None if it is not known.
        options: Options of `Bar`.
    """
    bar = MapBar(total, options)

    def submit_observed(*args: Any) -> Future[Any]:
        future = submit(*args)
        bar.watch(future)
        return future

    try:
        return ResultsWithProgress(
            make_results(submit_observed, cast("Engine", ObservedEngine(engine, bar)), bar.add), bar
        )
    except BaseException:
        bar.close()
        raise


def bar_options(progress: Any, name: str) -> dict[str, Any]:
    """Return the options of the bar for `map(progress=...)`.

    Args:
        progress: True for a bar with the name, a string for a bar with that description.
        name: Name of the mapped function.

    Raises:
        TypeError: progress is neither a bool nor a string.
    """
    if progress is not True and not isinstance(progress, str):
        raise TypeError(f"progress is {progress!r}; it must be True, False, or a text to show before the bar")
    return {"desc": name if progress is True else progress}


def _tqdm() -> Callable[..., Any]:
    try:
        import tqdm.auto
    except ImportError as error:
        raise ImportError("a progress bar needs tqdm: pip install tqdm") from error
    draw: Callable[..., Any] = tqdm.auto.tqdm
    return draw
