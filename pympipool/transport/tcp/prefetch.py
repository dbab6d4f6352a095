"""The queue between the ring of one worker on another host and its stream, in the relay.

    ring ── call ──> held ──┐ too large or too long to be prefetched: held until the calls before it have ended
           └────────────────┴──> sent ──> worker
    ring <───── result ──────────────────┘
    ring <── recalled call: the call before it turned out to be long, and the worker has not begun this one

Short calls are sent ahead (prefetched): the next one is there when the worker finishes one, so the network's delay is
waited for once and not with every call. It is the same as on a ring, and so is the consequence: no call may have to
wait behind a long one while another worker is idle. A call on the ring can be recalled at any time. For a call that
was sent to another host, the worker must be asked:

    relay ── RECALL, on the keepalive connection ──> a thread of the worker, while its main thread runs a call
    relay <── RECALLED, the running call ── the worker skips the calls behind it, the relay returns them
    relay ── RESUME ──> the worker takes calls again

Only functions that are known to be short are prefetched, about a millisecond of them (`prefetch.pyx`). A function that runs for the
first time, or for long, is alone on its way. The calls behind it can be cancelled as long as they are on the ring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING

from pympipool._core import ring
from pympipool._core.prefetch import Prefetch
from pympipool.transport.tcp.stream import CONTROL, NO_MORE_CALLS, RECALLED, RESUME, Message

if TYPE_CHECKING:
    from typing import Any

    from pympipool._core.channel import Channel
    from pympipool.transport.tcp.stream import Stream

POLL_INTERVAL_S = 1.0
"""Interval at which a thread that waits for calls, or for room on the ring, checks that its rank is still connected."""


DRAIN_POLL_INTERVAL_S = 0.0005
"""Interval at which the relay checks whether the master has received the recalled calls."""


class PrefetchQueue:
    """Forwards calls to one worker and results to the master. For one thread.

    Args:
        channel: The worker's side of its ring.
        stream: The connection to the worker.
        request_recall: Asks the worker for a recall.
        forward: Called with the bodies of control frames that come from the worker.
        has_ended: Return True if one of the sides is gone; called now and then.

    Attributes:
        idle: True while the worker has no call.
        is_sending: True while a message of the worker is passed on to the master, which may take time.
    """

    def __init__(
        self,
        channel: Channel,
        stream: Stream,
        request_recall: Callable[[], None],
        forward: Callable[[bytes], None],
        has_ended: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._stream = stream
        self._ask_for_recall = request_recall
        self._forward = forward
        self._has_ended = has_ended
        self._sent = Prefetch()
        self._held: Message | None = None
        self._returning = False  # calls were returned, and the master may not have received them yet
        self.idle = False
        self.is_sending = False

    def forward_next(self) -> None:
        """Wait for a message from either side and forward it.

        Raises:
            OSError, EOFError: The worker is gone.
            ValueError: The worker sent an invalid message.
        """
        if self._sent.count or self._sent.takes_no_more:
            self._prefetch()
            self._await_answer()
        else:
            self._await_call()

    def return_unstarted(self) -> None:
        """After the worker's end: forward its last messages, and return the calls that it cannot have begun."""
        with contextlib.suppress(OSError, EOFError):  # the end of the stream
            while self._sent.count:
                self._handle_answer(self._stream.receive())
        self._return_held()
        self._return_all_but_first()

    # ---- to the worker ----

    def _await_call(self) -> None:
        message, self._held = self._held, None
        while message is None and not self._may_receive():
            sleep(DRAIN_POLL_INTERVAL_S)  # the master's doorbell has been rung
        if message is None:
            self.idle = True
            message = self._channel.receive(POLL_INTERVAL_S)
            self.idle = False
        if message is None:
            return
        if message[0] == ring.CALL and self._has_ended():
            self._return(message[1])
            raise EOFError("the worker had ended before the call came")
        self._put(message)
        self._stream.flush()

    def _prefetch(self) -> None:
        while self._held is None and self._sent.has_room() and self._may_receive():
            message = self._channel.receive(0)
            if message is None:
                break
            kind, _, function, parts = message
            if not self._sent.may_send(kind, function, _size_bytes(parts)):
                self._held = message
                break
            self._put(message)
        self._stream.flush()

    def _may_receive(self) -> bool:
        """Return True if the calls on the ring are the next ones. Calls that are being returned come before them."""
        if self._returning and self._channel.is_drained():
            self._returning = False
        if self._returning and self._has_ended():
            raise EOFError("the master is gone before it has received the returned calls")
        return not self._returning

    def _put(self, message: Message) -> None:
        """Queue a message for the worker; it leaves with the next flush of the stream."""
        kind, id_, function, parts = message
        self._sent.sent(kind, id_, function, _size_bytes(parts))
        self._stream.put(*message)

    # ---- from the worker ----

    def _await_answer(self) -> None:
        due_ns = self._sent.recall_due_ns(self._held is not None)
        if due_ns and not self._stream.wait(max(due_ns - monotonic_ns(), 0) / 1e9):
            self._request_recall()
        self._handle_answer(self._stream.receive())

    def _handle_answer(self, answer: Message) -> None:
        if answer[0] == RECALLED:
            self._on_recalled(answer[1])
        elif answer[0] >= CONTROL:
            if answer[0] == NO_MORE_CALLS:
                self._return_rest(answer[1])
            self._forward(answer[3][0])
        else:
            self._end_call(answer)

    def _end_call(self, answer: Message) -> None:
        _, id_, run_ns, _ = answer
        self._sent.ended(id_, run_ns)
        self._send_to_master(answer)

    def _send_to_master(self, message: Message) -> None:
        self.is_sending = True
        while not self._channel.send(*message, POLL_INTERVAL_S):
            if self._has_ended():
                raise EOFError("the master is gone and does not receive what the worker has sent")
        self.is_sending = False

    # ---- recall ----

    def _request_recall(self) -> None:
        self._return_held()
        if self._sent.count > 1:
            self._sent.recall_requested = True
            self._ask_for_recall()
        else:
            self._sent.stop()

    def _on_recalled(self, running: int) -> None:
        """Return the calls behind the running one to the master: the worker has not begun them and never will."""
        self._sent.check_running(running)
        self._return_held()  # the last call first, so that the calls keep their order
        self._return_all_but_first()
        self._sent.stop()
        self._stream.send(RESUME, 0, 0, [b""])

    def _return_held(self) -> None:
        if self._held is not None and self._held[0] == ring.CALL:
            self._return(self._held[1])
            self._held = None

    def _return_rest(self, calls_left: int) -> None:
        """Return all calls but the first ones to the master: the worker will exit before it has begun them."""
        self._sent.takes_no_more = True
        self._return_held()
        self._return_all_but_first(calls_left)

    def _return_all_but_first(self, count: int = 1) -> None:
        while self._sent.count > count:
            self._return(self._sent.take_back())

    def _return(self, call: int) -> None:
        self._returning = True
        self._send_to_master((ring.RECALLED, call, 0, [b""]))


def _size_bytes(parts: list[Any]) -> int:
    return sum(map(len, parts))
