"""The one connection between an agent and the relay, which carries the streams of all workers of the agent's host.

    relay                                                     agent
    AgentStream.put(), flush()  ── frame, frame, ... ──>      AgentStream.receive()

    frame: head (kind, stream, worker, size) | up to `SLICE_BYTES` bytes; kinds and streams: `host_stream.py`

What a worker writes is cut into slices, so that the workers take turns. Nothing here blocks. Both sides count the bytes that they
have received, and keep what they have sent until the other side says that it has received it (`ACKNOWLEDGED`). So the frames
survive the connection: after `attach` to another one, what the other side has not received is sent again, and nothing twice.
"""

from __future__ import annotations

import ssl
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from pympipool.transport.host_stream import ACKNOWLEDGED, SEGMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HEAD = struct.Struct("<HHII")  # kind, stream, worker, size
_RECORD_BYTES = 1 << 14  # the most that TLS sends together

SLICE_BYTES = 4 * _RECORD_BYTES - _HEAD.size
"""Most bytes of a slice: a small call waits so long behind a large one, 0.2 ms. With its head it fills its TLS records."""

WAITING_MAX_BYTES = 1 << 18
"""Bytes that may wait to be sent before their sources are read no more."""

ACKNOWLEDGE_BYTES = 1 << 18
"""Bytes after which the other side is told that they have arrived."""

_RECEIVED_MAX_BYTES = 1 << 20  # in a row, so that sending gets its turn
_COUNT = struct.Struct("<Q")


class Frame(NamedTuple):
    """A frame, as it was put."""

    kind: int
    stream: int
    worker: int
    data: bytes | bytearray


class AgentStream:
    """Frames over a connection that may be replaced. For one thread at a time.

    Attributes:
        take_small: Called with the bytes that have arrived and the position of a frame there; takes as many frames as it likes, and
            returns the position of the next one.
    """

    def __init__(self) -> None:
        self.take_small: Callable[[bytearray, int], int] | None = None
        self._connection: ssl.SSLSocket | None = None
        self._segments: deque[bytes | bytearray] = deque([bytearray()])  # what was not acknowledged
        self._acknowledged = 0  # bytes of the first segment that are acknowledged nevertheless
        self._segment, self._offset = 0, 0  # where the bytes begin that were not sent over this connection
        self._waiting_bytes = 0  # their number
        self._acknowledged_bytes = 0  # of all that was put
        self._incoming = bytearray()
        self._buffer = memoryview(bytearray(_RECORD_BYTES))
        self._large: Frame | None = None  # a frame of which much is missing
        self._missing = memoryview(b"")  # the end of its data, received into its place
        self._told_bytes = 0
        self.received_bytes = 0

    def attach(self, connection: ssl.SSLSocket, rest: bytes, peer_received_bytes: int) -> None:
        """Go on over a new connection.

        Args:
            connection: The connection, after its handshake. It does not block any more.
            rest: What has arrived on it already.
            peer_received_bytes: The `received_bytes` of the other side.

        Raises:
            ValueError: The other side cannot have received so much, has forgotten what it had, or sends frames before its answer
                is read, while half a large one waits for its rest.
        """
        if rest and self._large is not None:
            raise ValueError("the other side has sent frames before it was answered")
        unacknowledged = sum(map(len, self._segments)) - self._acknowledged
        if not 0 <= peer_received_bytes - self._acknowledged_bytes <= unacknowledged:
            raise ValueError(f"the other side has received {peer_received_bytes} bytes, which cannot be")
        connection.setblocking(False)
        self._connection = connection
        self._acknowledge(peer_received_bytes)
        self._segment, self._offset = 0, self._acknowledged
        self._waiting_bytes = sum(map(len, self._segments)) - self._acknowledged
        self._take(rest)

    def detach(self) -> None:
        """Close the connection, and keep what it has not carried."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fileno(self) -> int:
        """Return the descriptor of the connection; -1: there is none."""
        return -1 if self._connection is None else self._connection.fileno()

    # ---- sending ----

    def put(self, kind: int, stream: int, worker: int, data: bytes | bytearray | memoryview = b"") -> None:
        """Queue a frame for the next `flush`. A slice has up to `SLICE_BYTES` bytes; a request may have more."""
        head = _HEAD.pack(kind, stream, worker, len(data))
        self._waiting_bytes += len(head) + len(data)
        if len(head) + len(data) >= SEGMENT_BYTES:
            self._segments.append(b"".join((head, data)))  # alone, so that it fills its records
            return
        segment = self.segment()
        segment += head
        segment += data

    def segment(self) -> bytearray:
        """Return the bytes to which frames may be appended. Whoever does so tells it by `note_appended`."""
        if len(self._segments[-1]) >= SEGMENT_BYTES:
            self._segments.append(bytearray())
        last = self._segments[-1]
        assert isinstance(last, bytearray)
        return last

    def note_appended(self, size: int) -> None:
        """Take note that so many bytes were appended to the segment."""
        self._waiting_bytes += size

    @property
    def is_full(self) -> bool:
        """True if so much waits to be sent that nothing should be added."""
        return self._waiting_bytes > WAITING_MAX_BYTES

    @property
    def is_waiting(self) -> bool:
        """True if something waits for the connection to take more."""
        return self._waiting_bytes > 0 and self._connection is not None

    def flush(self) -> None:
        """Send as much as the connection takes.

        Raises:
            OSError: The connection has ended.
        """
        connection = self._connection
        if connection is None:
            return
        try:
            while self._waiting_bytes:
                segment = self._segments[self._segment]
                if self._offset == len(segment):
                    self._segment, self._offset = self._segment + 1, 0
                    continue
                with memoryview(segment) as outgoing:
                    count = connection.send(outgoing[self._offset :])
                self._offset += count
                self._waiting_bytes -= count
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass

    def _acknowledge(self, received_bytes: int) -> None:
        self._acknowledged += received_bytes - self._acknowledged_bytes
        self._acknowledged_bytes = received_bytes
        while len(self._segments) > 1 and self._acknowledged >= len(self._segments[0]):
            self._acknowledged -= len(self._segments.popleft())
            self._segment, self._offset = (self._segment - 1, self._offset) if self._segment else (0, 0)

    # ---- receiving ----

    def receive(self) -> Iterator[Frame]:
        """Yield the frames that have arrived, as far as they are complete.

        Raises:
            OSError: The connection has ended. The keepalive connection tells why: OpenSSL may report a reset as a regular end.
        """
        connection = self._connection
        if connection is None:
            return
        yield from self._take_frames()
        limit = self.received_bytes + _RECEIVED_MAX_BYTES
        while self.received_bytes < limit:
            try:
                size = connection.recv_into(self._missing or self._buffer)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not size:
                raise ConnectionError("the connection has ended")
            if self._large is None:
                self._take(self._buffer[:size])
                yield from self._take_frames()
            else:
                yield from self._take_large(self._large, size)
        if self.received_bytes - self._told_bytes >= ACKNOWLEDGE_BYTES:
            self._told_bytes = self.received_bytes
            self.put(ACKNOWLEDGED, 0, 0, _COUNT.pack(self.received_bytes))

    @property
    def is_buffered(self) -> bool:
        """True if more has arrived than the descriptor shows."""
        return self._connection is not None and self._connection.pending() > 0

    def _take(self, data: bytes | memoryview) -> None:
        self._incoming += data
        self.received_bytes += len(data)

    def _take_frames(self) -> Iterator[Frame]:
        incoming = self._incoming
        position = 0
        try:
            while len(incoming) - position >= _HEAD.size:
                if self.take_small is not None:
                    position = self.take_small(incoming, position)
                    if len(incoming) - position < _HEAD.size:
                        break
                kind, stream, worker, size = _HEAD.unpack_from(incoming, position)
                end = position + _HEAD.size + size
                if len(incoming) < end:
                    if size >= _RECORD_BYTES:
                        self._begin_large(Frame(kind, stream, worker, bytearray(size)), position + _HEAD.size)
                        position = len(incoming)
                    break
                with memoryview(incoming) as arrived:
                    data = bytes(arrived[position + _HEAD.size : end])
                position = end
                if kind == ACKNOWLEDGED:
                    self._acknowledge(_COUNT.unpack(data)[0])
                else:
                    yield Frame(kind, stream, worker, data)
        finally:
            del incoming[:position]

    def _begin_large(self, frame: Frame, begin: int) -> None:
        """Have the rest of a frame received into its place; what has arrived of its data begins at this byte."""
        arrived_bytes = len(self._incoming) - begin
        self._missing = memoryview(frame.data)
        self._missing[:arrived_bytes] = self._incoming[begin:]
        self._missing = self._missing[arrived_bytes:]
        self._large = frame

    def _take_large(self, frame: Frame, size: int) -> Iterator[Frame]:
        self.received_bytes += size
        self._missing = self._missing[size:]
        if not self._missing:
            self._large, self._missing = None, memoryview(b"")
            yield frame
