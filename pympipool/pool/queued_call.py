"""A call of the pool that starts a worker for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.resources import Allocation, Resources

START_ATTEMPTS = 3
"""Workers that may exit before they have got their call. A worker that reports why it cannot start is not replaced."""


class QueuedCall:
    """A call that waits for its worker, or has one.

    Attributes:
        future: Its future; None once the pool knows that it has ended, so that nothing keeps the result while the worker
            exits.
        is_accepted: The supervisor knows it.
        is_settled: Its future ends without further help: the call was sent to its worker, or is about to fail.
        is_handed_back: It is about to fail because the pool is drained.
        attempts_left: How many times the call may be retried when its worker dies while it runs.
        starts_left: How many more workers may be started for it when one does not get ready.
        allocation: Its cores and devices; None before a worker was started.
        worker_number: The number of the last worker that was started for it.
    """

    __slots__ = (
        "allocation",
        "attempts_left",
        "future",
        "is_accepted",
        "is_handed_back",
        "is_settled",
        "parts",
        "resources",
        "starts_left",
        "worker_number",
    )

    def __init__(self, future: Future[Any], parts: list[Any], resources: Resources) -> None:
        self.future: Future[Any] | None = future
        self.parts = parts
        self.resources = resources
        self.is_accepted = False
        self.is_settled = self.is_handed_back = False
        self.attempts_left = resources.restart_limit
        self.starts_left = START_ATTEMPTS - 1
        self.allocation: Allocation | None = None
        self.worker_number = 0

    @property
    def is_done(self) -> bool:
        """True if the call has ended or was cancelled."""
        future = self.future
        return future is None or future.done()
