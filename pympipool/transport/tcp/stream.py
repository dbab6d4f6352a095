"""Messages between the relay and a rank on another host, over an authenticated TLS connection.

    relay (on the master's host)                rank (on any host)
    Stream.put(), flush()  -- message -->       Stream.receive()
    Stream.wait(), receive()  <-- message --    Stream.send()

    message: head (kind, part count, id, tag) | size of each part | parts

Messages have the form of those on a ring (csrc/message.h). Frames of the control connection travel in the same stream,
with kinds of their own. `handshake.py` opens the connection.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool._core.ring import new_buffer
from pympipool._util.clocks import LONGEST_WAIT_S

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

CONTROL = 1 << 16
"""Kind of a message whose only part is the body of a control frame. The kinds of csrc/message.h are small numbers."""

READY = CONTROL + 1
"""Kind of the message with the control frame "ready": serving begins."""

HELLO = CONTROL + 2
"""Kind of the first message of a rank. Its only part is a hello without the key, which the handshake has proved."""

RECALLED = CONTROL + 3
"""Kind of a rank's answer to `RECALL`. Its id is that of the running call; the rank will skip all calls behind it."""

RESUME = CONTROL + 4
"""Kind of the relay's answer to `RECALLED`. The rank runs the calls that follow it again."""

NO_MORE_CALLS = CONTROL + 5
"""A kind of message for a control frame of a worker that is about to exit by itself. The id is the number of calls that it runs
before, of those that were sent to it: one or none."""

WANTED = CONTROL + 6
"""Kind of a rank's question for shared data. Parts: the key, the identity of the rank's host, and the place at which the rank has
not found them; b"": none was tried. The kinds from here to `ENDED` are for connections of shared data."""

PLACE = CONTROL + 7
"""Kind of an answer to `WANTED`: another process of the rank's host has the data. The part says where."""

PIECE = CONTROL + 8
"""Kind of the messages that bring the data to a rank. The id says where the piece begins, the tag how many bytes all have."""

MISSING = CONTROL + 9
"""Kind of the answer that there are no data. The part says why; b"": they have been released."""

STORED = CONTROL + 10
"""Kind of what a rank says when it has the data. Parts: the key, and the place where other processes find them; b"": nowhere."""

ENDED = CONTROL + 11
"""Kind of the notice that the owner has given up shared data. The parts are their keys."""

AGENT = CONTROL + 12
"""Kind of the first message of an agent, in the place of `HELLO`, and of the relay's answer. The tag is the number of bytes of the
agent's frames that the sender has received. Parts: the frame that describes the agent's host, and the name of the connection, which
is empty for a new agent; in the answer the name alone. From then on the connection carries the frames of `agent_stream.py`."""

RECALL = b"b"
"""Sent to a rank over the keepalive connection, or through its agent: return the prefetched calls that have not begun."""

Message: TypeAlias = tuple[int, int, int, list[Any]]
"""Kind, id, tag, parts; as from `channel.Channel`."""

_HEAD = struct.Struct("<IIQQ")  # kind, part count, id, tag
_SIZE_BYTES = 8

_COALESCE_MAX_BYTES = 1 << 14
"""Parts up to this size are sent together: what fits into one TLS record travels as one."""

_BUFFER_BYTES = 1 << 16


class Stream:
    """Messages over an established connection. For one thread at a time.

    Large parts are sent from, and received into, their own memory.

    Args:
        connection: The connection, after its handshake; or one to the agent of this host.

    Attributes:
        received_bytes: Bytes that have arrived so far, for other threads to see if anything arrives.
    """

    def __init__(self, connection: ssl.SSLSocket | socket.socket) -> None:
        self._connection = connection
        self._pending: Callable[[], int] = getattr(connection, "pending", _nothing_pending)
        self.received_bytes = 0
        self._outgoing = bytearray()
        self._view = memoryview(new_buffer(_BUFFER_BYTES))  # its pages are not touched before they are needed
        self._begin = self._end = 0  # of the received bytes in the buffer that were not consumed yet

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._connection.fileno()

    def set_timeout(self, timeout_s: float | None) -> None:
        """Limit the time of each following operation; None for no limit."""
        self._connection.settimeout(timeout_s)

    def send(self, kind: int, id: int, tag: int, parts: Sequence[Any]) -> None:  # noqa: A002  as on a channel
        """Send a message; return when its last byte is on its way.

        Raises:
            OSError: The peer is gone.
        """
        self.put(kind, id, tag, parts)
        self.flush()

    def put(self, kind: int, id: int, tag: int, parts: Sequence[Any]) -> None:  # noqa: A002
        """Queue a message for the next `flush`, which sends all queued messages together. Large parts are sent at once.

        Raises:
            OSError: The peer is gone.
        """
        outgoing = self._outgoing
        sizes = [len(part) for part in parts]
        outgoing += encode_head(kind, id, tag, sizes)
        for part, size in zip(parts, sizes, strict=True):
            if len(outgoing) + size > _COALESCE_MAX_BYTES:
                self.flush()
            if size > _COALESCE_MAX_BYTES:
                self._connection.sendall(part)
            else:
                outgoing += part

    def flush(self) -> None:
        """Send the queued messages; return when the last byte is on its way.

        Raises:
            OSError: The peer is gone.
        """
        if self._outgoing:
            self._connection.sendall(self._outgoing)
            self._outgoing.clear()

    @property
    def is_buffered(self) -> bool:
        """True if `receive` finds the beginning of a message in this process's own memory, so that no poll shows it."""
        return self._begin < self._end or self._pending() > 0

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until `receive` finds the beginning of a message. The rest of the message may arrive later."""
        if self.is_buffered:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else min(timeout_s, LONGEST_WAIT_S) * 1000))

    def receive(self) -> Message:
        """Wait for the next message and return it. Its parts are writable and belong to the caller.

        Raises:
            EOFError: The peer has ended the connection.
            OSError: The peer is gone, or the time is over.
        """
        self._fill(_HEAD.size)
        kind, count, id_, tag = _HEAD.unpack_from(self._view, self._begin)
        self._begin += _HEAD.size
        self._fill(count * _SIZE_BYTES)
        sizes = struct.unpack_from(f"<{count}Q", self._view, self._begin)
        self._begin += count * _SIZE_BYTES
        return kind, id_, tag, [self._read_exactly(size) for size in sizes]

    def _fill(self, size: int) -> None:
        """Receive until the buffer holds at least `size` bytes. The buffer is large enough for them."""
        while self._end - self._begin < size:
            if self._begin == self._end:
                self._begin = self._end = 0
            elif self._begin and self._end + _COALESCE_MAX_BYTES > _BUFFER_BYTES:
                rest = self._end - self._begin
                self._view[:rest] = self._view[self._begin : self._end]
                self._begin, self._end = 0, rest
            self._end += self._receive_into(self._view[self._end :])

    def _read_exactly(self, size: int) -> Any:
        """Return the next `size` bytes: small parts copied from the buffer, large ones received into their place."""
        if size <= _COALESCE_MAX_BYTES:
            self._fill(size)
            part = bytearray(self._view[self._begin : self._begin + size])
            self._begin += size
            return part
        large_part = new_buffer(size)
        missing = memoryview(large_part)
        buffered = min(self._end - self._begin, size)
        missing[:buffered] = self._view[self._begin : self._begin + buffered]
        self._begin += buffered
        missing = missing[buffered:]
        while missing:
            missing = missing[self._receive_into(missing) :]
        return large_part

    def _receive_into(self, view: memoryview) -> int:
        count = self._connection.recv_into(view)
        if not count:
            raise EOFError("the peer has ended the connection")
        self.received_bytes += count
        return count

    def hang_up(self) -> None:
        """End the connection and wake a thread that waits in `receive` or `send`. From any thread."""
        try:
            # Not the shutdown of the TLS socket, which would drop its session under the thread that uses it.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        except OSError:
            pass  # the connection has ended already

    def detach(self) -> tuple[ssl.SSLSocket | socket.socket, bytes]:
        """Return the connection, and what has arrived and was not received. Use the stream no more."""
        return self._connection, bytes(self._view[self._begin : self._end])

    def close(self) -> None:
        """Close the descriptor."""
        self._connection.close()


class MessageParser:
    """Puts messages together from slices of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[int, int, int] | None = None  # of the message whose parts arrive
        self._sizes: tuple[int, ...] = ()
        self._parts: list[Any] = []
        self._large: tuple[Any, memoryview] | None = None  # a part, and the rest of it that is missing

    @property
    def is_empty(self) -> bool:
        """True if no part of a message has arrived."""
        return self._head is None and not self._buffer

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Yield the messages that end with a slice."""
        if self._large is not None:
            data = self._fill_large(data)
        self._buffer += data
        while self._has_head() and self._has_parts():
            assert self._head is not None
            yield (*self._head, self._parts)
            self._head = None

    def _has_head(self) -> bool:
        if self._head is not None:
            return True
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return False
        kind, count, id_, tag = _HEAD.unpack_from(buffer)
        end = _HEAD.size + count * _SIZE_BYTES
        if len(buffer) < end:
            return False
        self._sizes = struct.unpack_from(f"<{count}Q", buffer, _HEAD.size)
        self._head, self._parts = (kind, id_, tag), []
        del buffer[:end]
        return True

    def _has_parts(self) -> bool:
        parts = self._parts
        while len(parts) < len(self._sizes):
            buffer = self._buffer  # a large part leaves another one
            size = self._sizes[len(parts)]
            if size > _COALESCE_MAX_BYTES:
                if self._large is not None or not self._has_large(size):
                    return False
                continue
            if len(buffer) < size:
                return False
            parts.append(buffer[:size])
            del buffer[:size]
        return True

    def _has_large(self, size: int) -> bool:
        """Move what has arrived of a large part into its place; return True if it is complete."""
        part = new_buffer(size)
        self._large = part, memoryview(part)
        arrived, self._buffer = self._buffer, bytearray()
        self._buffer += self._fill_large(arrived)
        return self._large is None

    def _fill_large(self, data: bytes | bytearray | memoryview) -> memoryview:
        """Copy into a large part what belongs to it; return the rest."""
        assert self._large is not None
        part, missing = self._large
        arrived = memoryview(data)
        count = min(len(arrived), len(missing))
        missing[:count] = arrived[:count]
        self._large = (part, missing[count:]) if count < len(missing) else None
        if self._large is None:
            self._parts.append(part)
        return arrived[count:]


def encode_head(kind: int, id: int, tag: int, sizes: Sequence[int]) -> bytes:  # noqa: A002  as on a channel
    """Return what goes before the parts of a message."""
    return _HEAD.pack(kind, len(sizes), id, tag) + struct.pack(f"<{len(sizes)}Q", *sizes)


def _nothing_pending() -> int:
    return 0
