"""A worker behind an agent as the relay sees it: it has a control connection to the master, and uses the worker's ring.

    master ◄── ring ─────► PolledPrefetchQueue ─┬─ messages in slices ──► AgentLink ──► agent ──► worker
           ◄── frames ──── AgentRank ───────────┘

It has no thread, and waits for nothing: the link of the agent calls it when something has arrived, and `CallForwarder` when the
master has sent calls. Whoever calls it holds the lock of the link.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pympipool.transport.frames import ProtocolError, decode_body
from pympipool.transport.host_stream import DATA, MESSAGES, PAUSE, RECALLS, RESUME, close_all
from pympipool.transport.tcp.agent_stream import SLICE_BYTES
from pympipool.transport.tcp.handshake import AuthenticationError
from pympipool.transport.tcp.polled_prefetch import PolledPrefetchQueue
from pympipool.transport.tcp.relayed_rank import RelayedRank, parse_hello
from pympipool.transport.tcp.stream import CONTROL, READY, RECALL, MessageParser, encode_head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pympipool.transport.tcp.agent_link import AgentLink
    from pympipool.transport.tcp.master_stream import RankControl
    from pympipool.transport.tcp.stream import Message

ANSWERS_MAX_BYTES = 1 << 20
"""Bytes of answers for which the master has no room, before the agent is asked to read no more of the worker."""


class AgentRank(RelayedRank):
    """One worker that an agent has forked.

    Args:
        number: The worker's number.
        link: The connection to its agent.
        token: Assigns a connection for shared data to this worker.

    Attributes:
        is_paused: The agent has no room for further messages to the worker.
    """

    control: RankControl | None

    def __init__(self, number: int, link: AgentLink, token: bytes) -> None:
        super().__init__(token)
        self.number = number
        self.link = link
        self.is_paused = False
        self._parser = MessageParser()
        self._outgoing: deque[bytearray | memoryview] = deque()  # messages to the worker, in pieces
        self._queue: PolledPrefetchQueue | None = None
        self._is_ending = False  # the worker has ended, and the master has no room yet for its last answers
        self._has_paused = False  # the agent was asked to read no more of it

    # ---- from the worker ----

    def take_data(self, data: bytes | bytearray) -> None:
        """Take a slice of the worker's messages; b"" is their end.

        Raises:
            OSError, EOFError, ValueError: Either side is gone, or the worker has sent something invalid.
        """
        if not data:
            self._is_ending = True
            if self._queue is not None:
                self._queue.end()
            self.check_answers()
            return
        for message in self._parser.feed(data):
            self._take_message(message)
        if self._queue is not None:
            self._queue.is_partial = not self._parser.is_empty
        self.check_answers()

    def _take_message(self, message: Message) -> None:
        if self._queue is not None and self._queue.is_ready:
            self._queue.take_message(message)
        elif self.control is None:
            worker, rank = parse_hello(message)
            if (worker, rank) != (self.number, 0):
                raise AuthenticationError(f"worker {self.number} takes itself for rank {rank} of worker {worker}")
            self.control = self.link.connect(self)
        else:
            self.control.forward(message[3][0])
            if message[0] == READY and self._queue is not None:
                self._queue.serve(self.number)

    def forward_frame(self, body: bytes) -> None:
        """Forward a frame of the control connection to the master."""
        assert self.control is not None
        self.control.forward(body)

    def check_answers(self) -> None:
        """Pause a worker that answers faster than the master reads. End one that has ended and whose answers are read.

        Raises:
            EOFError: It has ended.
        """
        waiting = 0 if self._queue is None else self._queue.answer_bytes
        if self._is_ending and not waiting:
            raise EOFError("the worker has ended")
        if self._has_paused != (waiting > ANSWERS_MAX_BYTES if not self._has_paused else waiting > 0):
            self._has_paused = not self._has_paused
            self.link.frames.put(PAUSE if self._has_paused else RESUME, MESSAGES, self.number)
        if self._queue is not None:
            self._queue.waits_for_master = self._has_paused or self._is_ending

    # ---- from the master ----

    def take_frame(self, body: bytes, descriptors: list[int]) -> None:
        """Take a frame of the control connection: first the settings, then answers to this process; b"" is the end.

        Raises:
            OSError, EOFError, ValueError: The master has hung up, or there is no descriptor or memory free.
        """
        try:
            if not body:
                raise EOFError("the master has hung up")
            if self._queue is None:
                self._take_setup(body, descriptors)
            else:
                assert self.control is not None
                self.control.take_answer(body, descriptors)
        except BaseException:
            close_all(descriptors)
            raise

    def _take_setup(self, body: bytes, descriptors: list[int]) -> None:
        word, *_ = decode_body(body)
        if word != "setup":
            raise ProtocolError(f"the master sent a {word!r} frame where a setup was expected")
        *others, link, doorbells = descriptors
        descriptors[:] = others
        self._queue = self.link.calls.open(link, doorbells)
        self._queue.rank, self._queue.link_to_agent = self, self.link
        self.put(CONTROL, 0, 0, [body, self.token])
        close_all(descriptors)

    @property
    def queue(self) -> PolledPrefetchQueue | None:
        """The queue of the worker's calls; None until it has got its settings."""
        return self._queue

    # ---- to the worker ----

    def put(self, kind: int, id: int, tag: int, parts: Sequence[Any]) -> None:  # noqa: A002
        """Queue a message for the worker."""
        sizes = [len(part) for part in parts]
        self._append(encode_head(kind, id, tag, sizes))
        for part, size in zip(parts, sizes, strict=True):
            if size > SLICE_BYTES:
                self._outgoing.append(memoryview(part))
            else:
                self._append(part)
        self.link.schedule(self)
        self._note_waiting()

    def _note_waiting(self) -> None:
        if self._queue is not None:
            self._queue.is_behind = self.is_paused or bool(self._outgoing)

    def pause(self, *, is_on: bool) -> None:
        """Take note that the agent has no room for further messages to the worker, or that it has."""
        self.is_paused = is_on
        self._note_waiting()
        self.link.schedule(self)

    def _append(self, data: bytes | bytearray) -> None:
        last = self._outgoing[-1] if self._outgoing else None
        if isinstance(last, bytearray) and len(last) + len(data) <= SLICE_BYTES:
            last += data
        else:
            self._outgoing.append(bytearray(data))

    def take_slice(self) -> bytearray | memoryview | None:
        """Return the next bytes for the worker; None if there are none, or the agent has no room for them."""
        if self.is_paused or not self._outgoing:
            return None
        piece = self._outgoing.popleft()
        if len(piece) > SLICE_BYTES:
            self._outgoing.appendleft(piece[SLICE_BYTES:])
            piece = piece[:SLICE_BYTES]
        self._note_waiting()
        return piece

    def recall(self) -> None:
        """Ask the worker for calls, if some wait behind the running one."""
        if self._queue is not None:
            self._queue.recall()

    def request_recall(self) -> None:
        """Ask the worker for the calls that it has not begun."""
        self.link.frames.put(DATA, RECALLS, self.number, RECALL)

    def close(self) -> None:
        """Hang up at the master, and close the descriptors."""
        self.hang_up()
        if self._queue is not None:
            self._queue.is_ready = False
            self.link.calls.remove(self._queue)
        super().close()
