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

Only functions that are known to be short are prefetched, about a millisecond of them. A function that runs for the
first time, or for long, is alone on its way. The calls behind it can be cancelled as long as they are on the ring.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pympipool._core import ring
from pympipool.transport.tcp.stream import CONTROL, NO_MORE_CALLS, RECALLED, RESUME, Message

if TYPE_CHECKING:
    from typing import Any

    from pympipool._core.channel import Channel
    from pympipool.transport.tcp.stream import Stream

POLL_INTERVAL_S = 1.0
"""Interval at which a thread that waits for calls, or for room on the ring, checks that its rank is still connected."""

PREFETCH_NS = ring.PREFETCH_NS
"""Most work in flight to a worker, unless it is a single call. The same as on a ring."""

PREFETCH_CALLS_MAX = 64
"""Most calls in flight to a worker."""

PREFETCH_BYTES_MAX = 16_384
"""Most bytes prefetched. They fit into the kernels' buffers, so that neither side blocks in sending to the other."""

OVERHEAD_NS = 20_000
"""Time of a call besides its run time. It is ten times that on a ring (`scheduler.pyx`), because of the network."""

UNKNOWN_NS = 10**18
"""Estimate for a function that has never run. No other call is in flight together with a call of such a function.

On a ring (`scheduler.pyx`) the estimate is half a millisecond, since a recall costs next to nothing there.
"""

RECALL_AFTER_S = ring.OVERDUE_NS / 1e9
"""Longest time that a call should have to wait behind one that was expected to be short. The same as on a ring."""

DRAIN_POLL_INTERVAL_S = 0.0005
"""Interval at which the relay checks whether the master has received the recalled calls."""

FUNCTIONS_MAX = 1024
"""Most functions whose run times are remembered."""


class SentCall:
    """A call that was sent to the worker and is not answered yet."""

    __slots__ = ("estimate_ns", "function", "id", "size_bytes")

    def __init__(self, id: int, function: int, estimate_ns: int, size_bytes: int) -> None:  # noqa: A002
        self.id = id
        self.function = function
        self.estimate_ns = estimate_ns
        self.size_bytes = size_bytes


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
        self._in_flight: deque[SentCall] = deque()
        self._held: Message | None = None
        self._in_flight_ns = 0  # estimate for all calls in flight
        self._prefetched_bytes = 0
        self._function_bytes = 0  # of the functions that were sent before the next call
        self._recall_requested = False
        self._takes_no_more = False  # the worker is about to exit by itself
        self._returning = False  # calls were returned, and the master may not have received them yet
        self._progress_s = 0.0  # when the running call became the first in flight
        self._run_ns: dict[int, int] = {}
        self.idle = False
        self.is_sending = False

    def forward_next(self) -> None:
        """Wait for a message from either side and forward it.

        Raises:
            OSError, EOFError: The worker is gone.
            ValueError: The worker sent an invalid message.
        """
        if self._in_flight or self._takes_no_more:
            self._prefetch()
            self._await_answer()
        else:
            self._await_call()

    def return_unstarted(self) -> None:
        """After the worker's end: forward its last messages, and return the calls that it cannot have begun."""
        with contextlib.suppress(OSError, EOFError):  # the end of the stream
            while self._in_flight:
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
        while self._has_prefetch_room() and self._may_receive():
            message = self._channel.receive(0)
            if message is None:
                break
            if not self._may_prefetch(message):
                self._held = message
                break
            self._put(message)
        self._stream.flush()

    def _has_prefetch_room(self) -> bool:
        return (
            self._held is None
            and not self._takes_no_more
            and not self._recall_requested
            and self._in_flight_ns < PREFETCH_NS
            and len(self._in_flight) < PREFETCH_CALLS_MAX
        )

    def _may_receive(self) -> bool:
        """Return True if the calls on the ring are the next ones. Calls that are being returned come before them."""
        if self._returning and self._channel.is_drained():
            self._returning = False
        if self._returning and self._has_ended():
            raise EOFError("the master is gone before it has received the returned calls")
        return not self._returning

    def _may_prefetch(self, message: Message) -> bool:
        kind, _, tag, parts = message
        if self._prefetched_bytes + self._function_bytes + _size_bytes(parts) > PREFETCH_BYTES_MAX:
            return False
        if kind == ring.CALL:
            return self._in_flight_ns + self._estimate(tag) <= PREFETCH_NS
        return kind == ring.FUNCTION

    def _put(self, message: Message) -> None:
        """Queue a message for the worker; it leaves with the next flush of the stream."""
        kind, id_, function, parts = message
        if kind == ring.FUNCTION and self._in_flight:
            self._function_bytes += _size_bytes(parts)
        elif kind == ring.CALL:
            call = SentCall(id_, function, self._estimate(function), _size_bytes(parts) + self._function_bytes)
            self._function_bytes = 0
            if self._in_flight:
                self._prefetched_bytes += call.size_bytes
            else:
                self._progress_s = monotonic()
            self._in_flight.append(call)
            self._in_flight_ns += call.estimate_ns
        self._stream.put(*message)

    # ---- from the worker ----

    def _await_answer(self) -> None:
        if (
            (len(self._in_flight) > 1 or self._held is not None)
            and not self._recall_requested
            and not self._stream.wait(self._time_to_recall_s())
        ):
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
        call = self._in_flight.popleft() if self._in_flight else None
        if call is None or call.id != id_:
            raise ValueError(f"the worker has answered call {id_}, which it was not to run next")
        self._in_flight_ns -= call.estimate_ns
        if self._in_flight:
            self._prefetched_bytes -= self._in_flight[0].size_bytes
            self._progress_s = monotonic()
        self._recall_requested = False
        self._update_estimate(call.function, run_ns)
        self._send_to_master(answer)

    def _estimate(self, function: int) -> int:
        run_ns = self._run_ns.get(function)
        return UNKNOWN_NS if run_ns is None else run_ns + OVERHEAD_NS

    def _update_estimate(self, function: int, run_ns: int) -> None:
        if function == 0:  # the call has brought its function along: the next one has another
            return
        if len(self._run_ns) >= FUNCTIONS_MAX:
            self._run_ns.clear()
        known_ns = self._run_ns.get(function, run_ns)
        self._run_ns[function] = (3 * known_ns + run_ns) // 4

    def _send_to_master(self, message: Message) -> None:
        self.is_sending = True
        while not self._channel.send(*message, POLL_INTERVAL_S):
            if self._has_ended():
                raise EOFError("the master is gone and does not receive what the worker has sent")
        self.is_sending = False

    # ---- recall ----

    def _time_to_recall_s(self) -> float:
        """Return the seconds that the running call may still take before those behind it are recalled."""
        due_s = self._progress_s + max(RECALL_AFTER_S, 2e-9 * self._in_flight[0].estimate_ns)
        return max(due_s - monotonic(), 0.0)

    def _request_recall(self) -> None:
        self._return_held()
        if len(self._in_flight) > 1:
            self._recall_requested = True
            self._ask_for_recall()
        else:
            self._stop_prefetching()

    def _on_recalled(self, running: int) -> None:
        """Return the calls behind the running one to the master: the worker has not begun them and never will."""
        if not self._in_flight or self._in_flight[0].id != running:
            raise ValueError(f"the worker says that it runs call {running}, which it was not to run next")
        self._return_held()  # the last call first, so that the calls keep their order
        self._return_all_but_first()
        self._stop_prefetching()
        self._stream.send(RESUME, 0, 0, [b""])

    def _stop_prefetching(self) -> None:
        """Send nothing behind the running call, because it is a long one."""
        self._in_flight[0].estimate_ns = self._in_flight_ns = UNKNOWN_NS
        self._recall_requested = False

    def _return_held(self) -> None:
        if self._held is not None and self._held[0] == ring.CALL:
            self._return(self._held[1])
            self._held = None

    def _return_rest(self, calls_left: int) -> None:
        """Return all calls but the first ones to the master: the worker will exit before it has begun them."""
        self._takes_no_more = True
        self._return_held()
        self._return_all_but_first(calls_left)

    def _return_all_but_first(self, count: int = 1) -> None:
        while len(self._in_flight) > count:
            call = self._in_flight.pop()
            self._in_flight_ns -= call.estimate_ns
            self._prefetched_bytes -= call.size_bytes
            self._return(call.id)

    def _return(self, call: int) -> None:
        self._returning = True
        self._send_to_master((ring.RECALLED, call, 0, [b""]))


def _size_bytes(parts: list[Any]) -> int:
    return sum(map(len, parts))
