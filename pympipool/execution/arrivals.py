"""A queue from the continuation thread to a thread of the user, which waits for the next item by a future."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from pympipool._core.future import Future

if TYPE_CHECKING:
    from pympipool._core.dispatcher import Dispatcher

T = TypeVar("T")


class Arrivals(Generic[T]):
    """What a thread of the user reads, in the order in which it arrives.

    The reader waits for one of our futures: it makes progress itself meanwhile, green threads run, and where code of users runs in
    a service thread, that thread goes on with its work.

    One thread puts at a time: the continuation thread, or before it knows the queue, the thread that makes it.

    Args:
        dispatcher: Completes the calls that the reader waits for.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._items: deque[T] = deque()
        self._news = self._new_news()  # ends when something is added

    def put(self, item: T) -> None:
        """Add an item, and wake the reader; both or neither."""
        news, next_news = self._news, self._new_news()
        self._items.append(item)
        self._news = next_news
        news.set_result(None)
        self._dispatcher.wake_waiting_thread()

    def get(self, deadline_s: float | None) -> T:
        """Wait for the next item, and return it.

        Raises:
            TimeoutError: There is none until the deadline (monotonic, s; None: no limit).
        """
        news = self._news
        while not self._items:
            news.result(None if deadline_s is None else max(deadline_s - monotonic(), 0.0))
            news = self._news
        return self._items.popleft()

    def _new_news(self) -> Future[None]:
        news: Future[None] = Future()
        self._dispatcher.adopt(news)
        return news
