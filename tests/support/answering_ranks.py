"""A dispatcher without threads, and the ranks of its worker: over a real link, without processes."""

from __future__ import annotations

from typing import Any

from pympipool._core import ring
from pympipool._core.channel import Channel
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool.serialization import payload
from pympipool.serialization.exceptions import STATE_LOST_NOTE, dump_exception, load_exception

LIMIT_S = 60.0


class AnsweringRanks:
    """A dispatcher, and the ranks of its worker.

    Args:
        ranks: The number of ranks.
    """

    def __init__(self, ranks: int) -> None:
        self.dispatcher = Dispatcher(payload.load, load_exception, lambda: None)
        link = ring.link_segment(ranks=ranks)
        self.dispatcher.add_worker(1, link)
        self.ranks = [Channel(link, self.dispatcher.doorbells, rank) for rank in range(ranks)]

    def submit(self, *args: Any) -> Future[Any]:
        """Submit a call with these arguments."""
        future: Future[Any] = Future()
        self.dispatcher.adopt(future)
        future.function_name = "f"
        self.dispatcher.submit(future, None, payload.dump_call(0, print, args, {}))
        return future

    def answer(self, rank: int, value: Any, **options: Any) -> None:
        """Have a rank receive a call and answer it."""
        _, call, _, _ = self.ranks[rank].receive(LIMIT_S)
        self.ranks[rank].answer(ring.RESULT, call, payload.dump(value), 7 + rank, **options)

    def fail(
        self, rank: int, error: BaseException, place: bytes = b"here", note: bytes = STATE_LOST_NOTE.encode()
    ) -> None:
        """Have a rank receive a call and raise."""
        _, call, _, _ = self.ranks[rank].receive(LIMIT_S)
        parts = [*dump_exception(error, f"rank {rank}"), place, note]
        self.ranks[rank].answer(ring.ERROR, call, parts, 5, len(place))

    def answer_with(self, rank: int, pickled: bytes) -> None:
        """Have a rank receive a call and answer it with a value that is pickled already."""
        _, call, _, _ = self.ranks[rank].receive(LIMIT_S)
        self.ranks[rank].answer(ring.RESULT, call, [pickled])
