"""How far calls have come, as a bar of tqdm's: in a terminal, and in a notebook.

    progress(futures)          ─┐
                                ├─► Bar ◄── step: a future has ended, told by whoever ends it
    map(..., progress=True)    ─┘

The bar follows what has ended, in whatever order, not what was asked for. tqdm is imported only here, and nothing is
watched without a bar.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

T = TypeVar("T")

LOOK_S = 0.1
"""How often the bar is brought up to date while nothing ends; tqdm draws it no more often than that."""


def progress(futures: Iterable[Future[T]], **options: Any) -> list[Future[T]]:
    """Waits for calls, and shows a bar meanwhile.

    Args:
        futures: Those of calls, of any executor of `concurrent.futures`.
        **options: As for `tqdm.auto.tqdm`, which draws the bar: desc, unit, leave, file, disable, ...

    Returns:
        The futures, all of which have ended; calls that failed are counted on the bar, and raise nothing here.

    Raises:
        ImportError: tqdm is not installed.
        TypeError: There is something else among the futures.

    Examples:
        >>> from pympipool import Executor, progress
        >>> with Executor(max_workers=1, block_allocation=True) as exe:
        ...     calls = [exe.submit(pow, 2, n) for n in range(4)]
        ...     [call.result() for call in progress(calls, desc="powers", disable=True)]
        [1, 2, 4, 8]
    """
    waited_for = list(futures)
    for future in waited_for:
        if not hasattr(future, "add_done_callback"):
            raise TypeError(
                f"there is {future!r:.200}, of type {type(future).__name__}, among the futures; progress() waits for what"
                " submit() returns (of a dict, give its values())"
            )
    with Bar(len(waited_for), options) as bar:
        for future in waited_for:
            bar.watch(future)
        for future in waited_for:
            while not future.done():
                try:
                    future.exception(LOOK_S)  # a thread that waits so moves results itself
                except (FutureTimeoutError, CancelledError):
                    bar.refresh()
    return waited_for


class Bar:
    """A bar over calls. Any thread may end them; it ends by itself with the last.

    Args:
        total: Number of calls.
        options: As for `tqdm.auto.tqdm`.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self, total: int, options: dict[str, Any]) -> None:
        tqdm = _tqdm()
        self._lock = threading.RLock()  # a signal handler may end a future while this thread is in `_step`
        self._left = total
        self._failed = 0
        self._bar = tqdm(**{"total": total, "unit": " calls", **options})
        if total == 0:
            self.close()

    def watch(self, future: Future[Any], calls: int = 1) -> None:
        """Counts calls as soon as their future has ended."""
        add: Callable[..., None] = getattr(future, "_add_internal_callback", None) or future.add_done_callback
        add(lambda ended: self._step(ended, calls))

    def refresh(self) -> None:
        """Draws it again: time has passed."""
        with self._lock:
            if self._left > 0:
                self._bar.refresh()

    def close(self) -> None:
        """Leaves it as it is."""
        with self._lock:
            self._left = 0
            self._bar.close()

    def close_if_free(self) -> None:
        """As `close`, but waits for no other thread: for finalizers, which run wherever memory is collected."""
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

    def _step(self, future: Future[Any], calls: int) -> None:
        with self._lock:
            if self._left <= 0:
                return
            if _has_failed(future):
                self._failed += 1
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
                self._mark_failed()
            self._left -= calls
            self._bar.update(self._progress_of(future, calls))
            if self._left <= 0:
                self.close()

    def _progress_of(self, future: Future[Any], calls: int) -> int:
        return calls

    def _mark_failed(self) -> None:
        """Shows that something failed, in a notebook: the widget would end green. Text has no colour, and needs none."""
        draw_widget = getattr(self._bar, "disp", None)
        if draw_widget is not None:
            draw_widget(bar_style="danger")


def _has_failed(future: Future[Any]) -> bool:
    if future.cancelled():
        return False
    has_result = getattr(future, "has_result", None)  # ours know that without unpickling the result
    return future.exception() is not None if has_result is None else not has_result


class MapBar(Bar):
    """A bar over the calls of a map. These are cancelled only where the map ends early, and that is no progress."""

    def _progress_of(self, future: Future[Any], calls: int) -> int:
        return 0 if future.cancelled() else calls


class ResultsWithProgress(Iterator[T]):
    """The results of a map under a bar, which is left when they end.

    Args:
        results: Of the map.
        bar: Its bar.
    """

    def __init__(self, results: Iterator[T], bar: Bar) -> None:
        self._results = results
        self._bar = bar
        self._begun = False

    def __next__(self) -> T:
        self._begun = True
        try:
            return next(self._results)
        except BaseException:  # StopIteration, or what a call raised: nothing comes after either
            self._bar.close()
            raise

    def close(self) -> None:
        """Cancels the calls that are left."""
        self._bar.close()
        close = getattr(self._results, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        if self._begun:  # a loop over it was left: the calls after are cancelled; before any loop, they all run
            self._bar.close_if_free()


class ObservedEngine:
    """An engine as the batches of a map see it, with a bar that watches them."""

    def __init__(self, engine: Engine, bar: Bar) -> None:
        self._engine = engine
        self._bar = bar
        self.add_pending_source = engine.add_pending_source
        self.remove_pending_source = engine.remove_pending_source

    def submit_batch(self, fn: Callable[..., Any], columns: tuple[Sequence[Any], ...], resources: Any) -> Future[Any]:
        """As `Engine.submit_batch`."""
        future = self._engine.submit_batch(fn, columns, resources)
        self._bar.watch(future, len(columns[0]))
        return future


def with_progress(
    make_results: Callable[[Callable[..., Any], Engine], Iterator[T]],
    submit: Callable[..., Future[Any]],
    engine: Engine,
    total: int,
    options: dict[str, Any],
) -> Iterator[T]:
    """The results of a map, under a bar.

    Args:
        make_results: Begins the map, with what submits one call, and an engine for what submits batches.
        submit: Submits one call.
        engine: Submits batches.
        total: Number of calls.
        options: As for `Bar`.
    """
    bar = MapBar(total, options)

    def watched(*args: Any) -> Future[Any]:
        future = submit(*args)
        bar.watch(future)
        return future

    try:
        return ResultsWithProgress(make_results(watched, cast("Engine", ObservedEngine(engine, bar))), bar)
    except BaseException:
        bar.close()
        raise


def options_of(said: Any, default: str) -> dict[str, Any] | None:
    """What `map(progress=...)` says: the options of the bar; None for no bar.

    Raises:
        TypeError: It is neither a bool nor a text.
    """
    if said is False:
        return None
    if said is not True and not isinstance(said, str):
        raise TypeError(f"progress is {said!r}; it must be True, False, or a text to stand before the bar")
    return {"desc": default if said is True else said}


def _tqdm() -> Callable[..., Any]:
    try:
        import tqdm.auto
    except ImportError as error:
        raise ImportError('a progress bar needs tqdm: pip install "pympipool[progress]"') from error
    draw: Callable[..., Any] = tqdm.auto.tqdm
    return draw
