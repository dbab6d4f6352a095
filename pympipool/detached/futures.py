"""The future of a detached call: cancelling it cancels the job, and its callbacks may wait for other calls.

watching thread ── a call has ended ──► Callbacks ──► thread "pympipool_callbacks"
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pympipool._core.future import Future
from pympipool._util.service_threads import ServiceLogger, ServiceThread

if TYPE_CHECKING:
    from pympipool.detached.watcher import Watcher

__all__ = ["Callbacks", "DetachedFuture"]

LOGGER = ServiceLogger("pympipool.detached")


class DetachedFuture(Future[Any]):
    """The future of a detached call.

    Args:
        watcher: Ends the future.

    Attributes:
        is_running: The job runs, as far as is known.
        on_cancelled: Called after the future was cancelled.
    """

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self.is_running = False
        self.on_cancelled: Callable[[], object] | None = None

    def running(self) -> bool:
        """Return True while the job runs, as far as is known."""
        return self.is_running and not self.done()

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel the job if it has not started; return True if the call is cancelled.

        Args:
            force: Cancel it also if it runs.
        """
        if self.running() and not force:
            return False
        was_done = self.done()
        is_cancelled = super().cancel()
        if is_cancelled and not was_done and self.on_cancelled is not None:
            self.on_cancelled()
        return is_cancelled

    def run_callbacks(self) -> None:
        """Run the callbacks, in a thread of their own if the watching thread has ended the future."""
        if not self._watcher.run_elsewhere(super().run_callbacks):
            super().run_callbacks()

    # ---- what waits ----

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the call and return its result."""
        try:
            self._check_may_wait()
            return super().result(timeout)
        finally:
            del self  # break the reference cycle of exception, traceback, frame and future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call; return the exception that it raised, or None if it returned."""
        self._check_may_wait()
        return super().exception(timeout)

    @property
    def _condition(self) -> Any:  # type: ignore[override]  # what `wait` and `as_completed` take
        self._check_may_wait()
        return super()._condition

    def _check_may_wait(self) -> None:
        if not self.done():
            self._watcher.check_may_wait()


class Callbacks:
    """Functions that run in a thread of their own, which exists from the first one on."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: ServiceThread | None = None

    def put(self, function: Callable[[], object]) -> bool:
        """Have a function called soon; return False if there is no room for a thread. For one thread only."""
        if self._thread is None:
            thread = ServiceThread("pympipool_callbacks", self._run, may_wait=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        self._queue.put(function)
        return True

    def end(self) -> None:
        """End the thread after the last function."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the last function, unless it is this one that waits."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (function := self._queue.get()) is not None:
            try:
                function()
            except BaseException:  # also SystemExit: the callbacks of other futures must run
                LOGGER.exception("a callback raised what ends a thread elsewhere")
            del function
