"""The way of calls between the ring of one distant worker and its stream, in the relay.

    ring ── take ──> held ──┐ too large or too long to be sent ahead: until the calls before it have ended
           └────────────────┴──> sent ──> worker
    ring <───── result ──────────────────┘
    ring <── returned: the call before turned out to be long, and the worker has not begun this one

Short calls are sent ahead: the next one is there when the worker has ended one, and the network's delay is waited for once
and not with every call. It is the same as on a ring, and so is what follows from it: nothing may have to wait behind a
call that turns out long while another worker is idle. A call on the ring can be taken back at any time, one on a distant
host must be asked for:

    relay ── RECALL, on the lifeline ──> a thread of the worker, while its main thread runs a call
    relay <── RECALLED, the running call ── it skips calls from here on, and what was sent behind that one is returned
    relay ── RESUME ──> it takes calls again

Only functions that are known to be short go ahead, about a millisecond of them: what runs for the first time, or for long,
is alone on its way, and what is behind it can be cancelled as long as it lies on the ring.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pympipool._core import ring
from pympipool.transport.tcp.stream import CONTROL, RECALL, RECALLED, RESUME, Message

if TYPE_CHECKING:
    from typing import Any

    from pympipool.transport.tcp.stream import Stream

LOOK_S = 1.0
"""How often a thread that waits for calls, or for room on the ring, looks whether its rank is still there."""

PREFETCH_NS = 1_000_000
"""Work to be on its way to a worker at most, besides a single call; as `scheduler.pyx` has it for rings."""

AHEAD_MAX = 64
"""Calls on their way at most."""

AHEAD_BYTES = 16_384
"""Bytes sent ahead at most: they find room in the kernels' buffers, so that no side waits in sending for the other one."""

OVERHEAD_NS = 20_000
"""Of a call, besides its run time."""

UNKNOWN_NS = 10**18
"""The estimate for a function that has never run."""

LATE_S = 0.002
"""How long anybody should have to wait behind a call that was thought to be short."""

PAUSE_S = 0.0005
"""Between two looks whether the master has taken what comes back to him."""

FUNCTIONS_MAX = 1024
"""Functions whose run times are remembered."""


class Sent:
    """A call that the worker has, and has not answered."""

    __slots__ = ("estimate_ns", "function", "id", "size_bytes")

    def __init__(self, id: int, function: int, estimate_ns: int, size_bytes: int) -> None:  # noqa: A002
        self.id = id
        self.function = function
        self.estimate_ns = estimate_ns
        self.size_bytes = size_bytes


class PrefetchQueue:
    """Carries calls one way and results the other. For one thread.

    Args:
        channel: The worker's side of its ring.
        stream: The worker.
        lifeline: To ask it for calls back.
        pass_on: Gets the bodies of control frames that come from the worker.
        has_ended: Whether one of the sides is gone; looked at now and then.
    """

    def __init__(
        self,
        channel: ring.Channel,
        stream: Stream,
        lifeline: socket.socket,
        pass_on: Callable[[bytes], None],
        has_ended: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._stream = stream
        self._lifeline = lifeline
        self._pass_on = pass_on
        self._has_ended = has_ended
        self._sent: deque[Sent] = deque()
        self._held: Message | None = None
        self._expected_ns = 0  # of all that was sent
        self._ahead_bytes = 0
        self._function_bytes = 0  # of functions that went before the next call
        self._asked = False  # for calls back
        self._returning = False  # the master may not know yet what comes back to him
        self._progress_s = 0.0
        self._run_ns: dict[int, int] = {}
        self.idle = False

    def carry(self) -> None:
        """Waits for a message from either side and passes it on.

        Raises:
            OSError, EOFError: The worker is gone.
            ValueError: It says what makes no sense.
        """
        if self._sent:
            self._send_ahead()
            self._await_answer()
        else:
            self._await_call()

    def return_unbegun(self) -> None:
        """The worker has ended: passes on what it had said before, and gives back what it cannot have begun."""
        with contextlib.suppress(OSError, EOFError):  # the end
            while self._sent:
                self._take(self._stream.receive())
        self._return_held()
        self._return_all_but_first()

    # ---- to the worker ----

    def _await_call(self) -> None:
        message, self._held = self._held, None
        while message is None and not self._may_take():
            sleep(PAUSE_S)  # the master has been rung
        if message is None:
            self.idle = True
            message = self._channel.receive(LOOK_S)
            self.idle = False
        if message is None:
            return
        if message[0] == ring.CALL and self._has_ended():
            self._return(message[1])
            raise EOFError("the worker had ended before the call came")
        self._put(message)
        self._stream.flush()

    def _send_ahead(self) -> None:
        while self._has_room_ahead() and self._may_take():
            message = self._channel.receive(0)
            if message is None:
                break
            if not self._may_go_ahead(message):
                self._held = message
                break
            self._put(message)
        self._stream.flush()

    def _has_room_ahead(self) -> bool:
        return (
            self._held is None and not self._asked and self._expected_ns < PREFETCH_NS and len(self._sent) < AHEAD_MAX
        )

    def _may_take(self) -> bool:
        """Whether the calls on the ring are the next ones: those that come back to the master stand before them."""
        if self._returning and self._channel.is_drained():
            self._returning = False
        if self._returning and self._has_ended():
            raise EOFError("nobody takes what comes back")
        return not self._returning

    def _may_go_ahead(self, message: Message) -> bool:
        kind, _, tag, parts = message
        if self._ahead_bytes + self._function_bytes + _size_bytes(parts) > AHEAD_BYTES:
            return False
        if kind == ring.CALL:
            return self._expected_ns + self._estimate(tag) <= PREFETCH_NS
        return kind == ring.FUNCTION

    def _put(self, message: Message) -> None:
        kind, id_, function, parts = message
        if kind == ring.FUNCTION and self._sent:
            self._function_bytes += _size_bytes(parts)
        elif kind == ring.CALL:
            call = Sent(id_, function, self._estimate(function), _size_bytes(parts) + self._function_bytes)
            self._function_bytes = 0
            if self._sent:
                self._ahead_bytes += call.size_bytes
            else:
                self._progress_s = monotonic()
            self._sent.append(call)
            self._expected_ns += call.estimate_ns
        self._stream.put(*message)

    # ---- from the worker ----

    def _await_answer(self) -> None:
        if (
            (len(self._sent) > 1 or self._held is not None)
            and not self._asked
            and not self._stream.wait(self._patience_s())
        ):
            self._ask_back()
        self._take(self._stream.receive())

    def _take(self, answer: Message) -> None:
        if answer[0] == RECALLED:
            self._take_back(answer[1])
        elif answer[0] >= CONTROL:
            self._pass_on(answer[3][0])
        else:
            self._end_call(answer)

    def _end_call(self, answer: Message) -> None:
        _, id_, run_ns, _ = answer
        call = self._sent.popleft() if self._sent else None
        if call is None or call.id != id_:
            raise ValueError(f"the worker has answered call {id_}, which it was not to run next")
        self._expected_ns -= call.estimate_ns
        if self._sent:
            self._ahead_bytes -= self._sent[0].size_bytes
            self._progress_s = monotonic()
        self._asked = False
        self._learn(call.function, run_ns)
        self._tell_master(answer)

    def _estimate(self, function: int) -> int:
        run_ns = self._run_ns.get(function)
        return UNKNOWN_NS if run_ns is None else run_ns + OVERHEAD_NS

    def _learn(self, function: int, run_ns: int) -> None:
        if function == 0:  # the call has brought its function along: the next one has another
            return
        if len(self._run_ns) >= FUNCTIONS_MAX:
            self._run_ns.clear()
        known_ns = self._run_ns.get(function, run_ns)
        self._run_ns[function] = (3 * known_ns + run_ns) // 4

    def _tell_master(self, message: Message) -> None:
        while not self._channel.send(*message, LOOK_S):
            if self._has_ended():
                raise EOFError("nobody takes what the worker has sent")

    # ---- calls back ----

    def _patience_s(self) -> float:
        """How long the call that runs may still take before those behind it are asked for."""
        due_s = self._progress_s + max(LATE_S, 2e-9 * self._sent[0].estimate_ns)
        return max(due_s - monotonic(), 0.0)

    def _ask_back(self) -> None:
        self._return_held()
        if len(self._sent) > 1:
            self._asked = True
            with contextlib.suppress(BlockingIOError):  # then it has not heard of what was asked before
                self._lifeline.send(RECALL, socket.MSG_DONTWAIT)
        else:
            self._stay_alone()

    def _take_back(self, running: int) -> None:
        """The worker has not begun what was sent behind the call that it runs, and never will."""
        if not self._sent or self._sent[0].id != running:
            raise ValueError(f"the worker says that it runs call {running}, which it was not to run next")
        self._return_held()  # the last first, so that calls keep their order
        self._return_all_but_first()
        self._stay_alone()
        self._stream.send(RESUME, 0, 0, [b""])

    def _stay_alone(self) -> None:
        """Nothing is sent behind the call that runs: it is a long one."""
        self._sent[0].estimate_ns = self._expected_ns = UNKNOWN_NS
        self._asked = False

    def _return_held(self) -> None:
        if self._held is not None and self._held[0] == ring.CALL:
            self._return(self._held[1])
            self._held = None

    def _return_all_but_first(self) -> None:
        while len(self._sent) > 1:
            call = self._sent.pop()
            self._expected_ns -= call.estimate_ns
            self._ahead_bytes -= call.size_bytes
            self._return(call.id)

    def _return(self, call: int) -> None:
        self._returning = True
        self._tell_master((ring.RETURNED, call, 0, [b""]))


def _size_bytes(parts: list[Any]) -> int:
    return sum(map(len, parts))
