"""The future of a detached call: cancelling it cancels the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pympipool._core.future import Future

__all__ = ["DetachedFuture"]


class DetachedFuture(Future[Any]):
    """The future of a detached call.

    Attributes:
        is_running: The job runs, as far as is known.
        on_cancelled: Called after the future was cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
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
