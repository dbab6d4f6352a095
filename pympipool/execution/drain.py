"""Calls that have not begun are handed back to the script: see `Executor.drain`.

    drain ─► the dispatcher rejects what is submitted from now on
          ─► the supervisor starts no calls, and lets each worker end after its call
                └─► completion thread: hand_back ─► all that waits is counted by name, then ends with `DrainedError`

Everything that waits somewhere is handed back: in the dispatcher, in the pool, for other calls, for its next attempt, and what a
`map` has not submitted yet. The supervisor repeats that while the executor exists: a call may have been on its way from one of
these places to the next, or its worker may have died.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pympipool.errors import DrainedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.execution.blocked_calls import BlockedCalls
    from pympipool.execution.interfaces import PendingSource
    from pympipool.execution.retries import Retries

__all__ = ["Drain"]

UNKNOWN = "unknown"
"""Name of a function that has none."""


class Drain:
    """Ends the calls of one engine that have not begun.

    Args:
        dispatcher: Has most of them.
        sources: Have not submitted theirs.
        blocked: Wait for others.
        retries: Wait for their next attempt.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        sources: Mapping[PendingSource, None],
        blocked: BlockedCalls,
        retries: Retries,
    ) -> None:
        self._dispatcher = dispatcher
        self._sources = sources
        self._blocked = blocked
        self._retries = retries
        self._left: dict[str, int] = {}  # all errors refer to it: so they know of calls that are handed back later, too
        self._taken: list[Future[Any]] = []  # calls that only this object knows, and that are not counted yet
        self._counted: list[Future[Any]] = []

    def late_error(self) -> BaseException:
        """Return the exception of a call that was submitted after `drain`."""
        return DrainedError(None, self._left)

    def hand_back(self, futures: Iterable[Future[Any]] = ()) -> None:
        """End all calls that have not begun. In the completion thread.

        If this raises MemoryError, it is called again.

        Args:
            futures: Those that wait in the pool.
        """
        sources = [source for source in list(self._sources) if len(source) > 0]
        self._dispatcher.take_waiting(self._taken)
        waiting = [*futures, *self._blocked.futures(), *self._retries.futures()]
        self._taken += [future for future in waiting if not future.done()]
        while self._taken:
            future = self._taken[-1]
            self._count(future.function_name, future.rows or 1)
            self._counted.append(future)
            self._taken.pop()
        for source in sources:
            self._count(source.function_name, len(source))
            source.cancel_rest(DrainedError(source.function_name, self._left))
        while self._counted:
            future = self._counted[0]
            self._dispatcher.fail(future, self._error_of(future))
            self._counted.pop(0)

    def _count(self, name: str | None, calls: int) -> None:
        name = name or UNKNOWN
        self._left[name] = self._left.get(name, 0) + calls

    def _error_of(self, future: Future[Any]) -> Callable[[], BaseException]:
        return partial(DrainedError, future.function_name or UNKNOWN, self._left)
