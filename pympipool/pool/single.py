"""The pool without block allocation: each call gets a worker of its own.

    place ─► waiting ── cores and GPUs are free ─► worker is started ── ready ─► it gets its call
                                   ▲                                                  │
                                   └──────── given back when the worker is gone ◄─────┘

Same workers, same links, same failures as with block allocation; only that a worker's life is one call. Which call
may start when is the ledger's to say (`pympipool.resources`).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pympipool.errors import WorkerStartError
from pympipool.pool.ending import END_GRACE_S, IDLE_CHECK_S, death_of, end_stuck_ranks, start_failure_of
from pympipool.pool.keeper import Keeper
from pympipool.pool.member import Member, State

if TYPE_CHECKING:
    from pympipool._dispatch import Dispatcher
    from pympipool._future import Future
    from pympipool.resources import Grant, Ledger, Resources
    from pympipool.spawners.base import Spawner

LOGGER = logging.getLogger("pympipool.pool")

STARTING_MAX = 64
"""Workers that may be on their way at a time: more would only wait for each other."""


class Request:
    """A call that waits for its worker, or has one."""

    __slots__ = ("attempts_left", "future", "grant", "parts", "resources")

    def __init__(self, future: Future[Any], parts: list[Any], resources: Resources, attempts: int) -> None:
        self.future = future
        self.parts = parts
        self.resources = resources
        self.attempts_left = attempts
        self.grant: Grant | None = None


class SinglePool:
    """Starts a worker for each call, as many at a time as the ledger has cores and GPUs for.

    Args:
        dispatcher: carries the calls.
        spawner_for: the spawner for a call's resources.
        ledger: says what is free.
        settings: what each worker is told (see docs/design.md).
    """

    keeps_functions = False

    def __init__(
        self,
        dispatcher: Dispatcher,
        spawner_for: Callable[[Resources], Spawner],
        ledger: Ledger,
        settings: dict[str, Any],
    ) -> None:
        self.dispatcher = dispatcher
        self.spawner_for = spawner_for
        self.ledger = ledger
        self._closed = threading.Event()
        self._closing = False
        self._pending: Callable[[], int] = lambda: 0
        self._waiting: deque[Request] = deque()
        self._unfinished = 0
        self._lock = threading.Lock()
        self.keeper = Keeper(self, {**settings, "one_call": True}, dispatcher.doorbells)

    # ---- for any thread ----

    def open(self) -> None:
        """Starts the keeper."""
        self.keeper.start()

    def place(
        self, future: Future[Any], handle: None, parts: list[Any], resources: Resources, admitted: bool
    ) -> None:
        """Queues a call.

        Raises:
            RuntimeError: no call is taken any more.
        """
        if not admitted:
            self.dispatcher.check_open()
        with self._lock:
            self._unfinished += 1
        request = Request(future, parts, resources)
        self.keeper.call(lambda: self._queue(request))

    def waiting_count(self) -> int:
        """Calls that have no worker yet."""
        return len(self._waiting)

    def unfinished_count(self) -> int:
        """Calls whose worker is not gone yet."""
        return self._unfinished

    def cancel_waiting(self) -> None:
        """Cancels the calls that have not begun."""
        for request in list(self._waiting):
            request.future.cancel()
        self.keeper.call(self._start_next)

    def close(self, pending: Callable[[], int] = lambda: 0) -> None:
        """Ends the keeper once no call is left; returns at once (see `wait_closed`)."""
        self._pending = pending
        self.keeper.call(self._close_when_idle)

    def kill(self) -> None:
        """Ends the workers now, whatever they do; returns at once."""
        self.keeper.call(self._kill_all)

    def check_damage(self) -> None:
        """Ends the workers whose rings hold nonsense."""
        self.keeper.call(self._kill_damaged)

    def wait_closed(self) -> None:
        """Waits until all workers are gone, and the keeper too."""
        self._closed.wait()
        if threading.current_thread() is not self.keeper.thread:
            self.keeper.thread.join()

    def abandon(self) -> None:
        """In a forked child: closes what was inherited, so that workers still notice the master's end."""
        self.keeper.close()

    # ---- starting ----

    def _queue(self, request: Request) -> None:
        self._waiting.append(request)
        self._start_next()
