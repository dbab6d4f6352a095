"""The queue between the ring of a worker and the agent behind which it is: as `prefetch.py`, but it never waits.

One thread serves all workers of an agent, so none of them may hold it up. What does not fit on a ring is kept, and sent when the
master has made room.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from pympipool.transport.tcp.prefetch import RECALL_AFTER_S, PrefetchQueue

if TYPE_CHECKING:
    from typing import Any

    from pympipool.transport.tcp.stream import Message


class PolledPrefetchQueue(PrefetchQueue):
    """Forwards calls to one worker and results to the master.

    Attributes:
        answer_bytes: The size of the answers that wait for room on the ring.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.answer_bytes = 0
        self._answers: deque[Message] = deque()

    def forward_calls(self) -> None:
        """Forward the calls on the ring, as far as they may be sent ahead, and answers that wait for room there.

        Raises:
            EOFError: The worker has ended before a call came.
        """
        if not self.forward_answers():
            return
        while not (self._in_flight or self._takes_no_more):
            message, self._held = self._held, None
            if message is None and self._may_receive():
                message = self._channel.receive(0)
            if message is None:
                return
            self._put(message)
        self._prefetch()

    def forward_answers(self) -> bool:
        """Send answers as far as the ring has room; return True if none is left."""
        while self._answers:
            message = self._answers[0]
            if not self._send_or_await_room(message):
                return False
            self._answers.popleft()
            self.answer_bytes -= sum(map(len, message[3]))
        return True

    def _send_or_await_room(self, message: Message) -> bool:
        if self._channel.send(*message, 0):
            return True
        self._channel.await_room()
        return self._channel.send(*message, 0)

    def _may_receive(self) -> bool:
        if self._returning and not self._channel.is_drained():
            self._channel.await_room()
        return super()._may_receive()

    def take_message(self, message: Message) -> None:
        """Forward a message of the worker, and the calls that may be sent ahead then.

        Raises:
            ValueError: It is invalid.
        """
        self._handle_answer(message)
        self.forward_calls()

    def end(self) -> None:
        """After the worker's end: return the calls that it cannot have begun."""
        self._return_held()
        self._return_all_but_first()

    @property
    def recall_due_s(self) -> float:
        """The time at which calls that wait behind the running one are to be recalled; infinite if none does."""
        if self._recall_requested or not (len(self._in_flight) > 1 or (self._in_flight and self._held is not None)):
            return inf
        return self._progress_s + max(RECALL_AFTER_S, 2e-9 * self._in_flight[0].estimate_ns)

    def recall(self) -> None:
        """Ask the worker for the calls behind the running one."""
        self._request_recall()

    def _send_to_master(self, message: Message) -> None:
        self._answers.append(message)
        self.answer_bytes += sum(map(len, message[3]))
        self.forward_answers()
