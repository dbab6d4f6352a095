"""The connection between the master and its relay for one agent: what all workers of a host and the master send to each other.

    master                                                        relay
    HostStream.put(REQUEST, PAUSE, RESUME, DATA: settings)  ───>  HostStream.receive()
    HostStream.receive()  <───  put(REPORT, CONNECTED, DATA: output, status, what ranks report)

    frame: head (kind, stream, number of descriptors, worker, size) | size bytes; descriptors travel with the first byte

So a worker behind an agent costs the master no descriptor. Calls and results do not travel here, but on the worker's rings: the
descriptor of their memory comes with the settings. Nothing here blocks.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from array import array
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pympipool._util.platform import RECEIVE_FLAGS, SEND_FLAGS
from pympipool.transport.frames import DESCRIPTORS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST, DATA, PAUSE, RESUME, ACKNOWLEDGED, REPORT, CONNECTED = range(1, 8)
"""Kinds of frames, here and between relay and agent (`tcp/agent_stream.py`).

A request of the master, as a pickle of a tuple. Bytes of a worker's stream; no bytes: its end. To send no more of a stream for now;
and to go on. How many bytes have been received in all, only between relay and agent. What an agent tells of its host, and that a
worker has connected, only to the master.
"""

STDOUT, STDERR, STATUS, MESSAGES, RECALLS, CONTROL = range(6)
"""The streams of a worker: what it prints; the records of its status pipe; its messages (see `tcp/stream.py`) and the relay's
requests to recall calls, both only between relay and agent; frames of its control connection, only between master and relay."""

SEGMENT_BYTES = 1 << 16
"""Frames up to this size in all are sent together."""

_HEAD = struct.Struct("<HBBII")  # kind, stream, number of descriptors, worker, size
_SHORTAGES = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}
"""Errors that go by: the other side has not received many descriptors, or the kernel has no memory now."""

_READS_MAX = 16  # in a row, so that others get their turn
_ROOM = socket.CMSG_SPACE(DESCRIPTORS_MAX * array("i").itemsize)
_CTRUNC = socket.MSG_CTRUNC


class HostFrame(NamedTuple):
    """A frame, as it was put. Descriptors for which the receiver has no room are missing."""

    kind: int
    stream: int
    worker: int
    data: bytes
    descriptors: list[int]


class _Segment:
    """Bytes that are sent together, and the descriptors that travel with the first of them."""

    __slots__ = ("data", "descriptors")

    def __init__(self, descriptors: list[int]) -> None:
        self.data = bytearray()
        self.descriptors = descriptors


class HostStream:
    """Frames over a Unix socket. For one thread at a time.

    Args:
        connection: The socket. From now on it does not block.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._segments: deque[_Segment] = deque()
        self._incoming = bytearray()
        self._arrived: deque[list[int]] = deque()  # descriptors, by the frames with which they came
        self.waiting_bytes = 0

    def fileno(self) -> int:
        """Return the descriptor of the connection; -1: it is closed."""
        return self._connection.fileno()

    # ---- sending ----

    def put(
        self, kind: int, stream: int, worker: int, data: bytes | bytearray = b"", descriptors: Sequence[int] = ()
    ) -> None:
        """Queue a frame for the next `flush`. The descriptors are duplicated.

        Raises:
            OSError: There is no room for the duplicates, although those of earlier frames were sent as far as possible.
        """
        frame = b"".join((_HEAD.pack(kind, stream, len(descriptors), worker, len(data)), data))
        last = self._segments[-1] if self._segments else None
        if descriptors or last is None or len(last.data) + len(data) > SEGMENT_BYTES:
            last = _Segment(self._duplicates(descriptors))
            self._segments.append(last)
        last.data += frame  # at once: without memory there must be no part of it
        self.waiting_bytes += _HEAD.size + len(data)

    def _duplicates(self, descriptors: Sequence[int]) -> list[int]:
        try:
            return _duplicates(descriptors)
        except OSError:
            self.flush()  # closes those of other frames: many workers may connect before the next one
            return _duplicates(descriptors)

    def flush(self) -> None:
        """Send as much as the connection takes.

        Raises:
            OSError: The connection has ended.
        """
        try:
            while self._segments:
                segment = self._segments[0]
                count = self._send(segment)
                self.waiting_bytes -= count
                if count < len(segment.data):
                    del segment.data[:count]
                else:
                    self._segments.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise

    def _send(self, segment: _Segment) -> int:
        if not segment.descriptors:
            return self._connection.send(segment.data, SEND_FLAGS)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", segment.descriptors))]
        count = self._connection.sendmsg([segment.data], ancillary, SEND_FLAGS)
        while segment.descriptors:
            os.close(segment.descriptors.pop())
        return count

    # ---- receiving ----

    def receive(self) -> list[HostFrame]:
        """Return the frames that have arrived completely.

        Raises:
            EOFError: The other side has closed the connection, and no frame is left.
            OSError: The connection has ended.
        """
        frames: list[HostFrame] = []
        for _ in range(_READS_MAX):
            try:
                data, ancillary, flags, _ = self._connection.recvmsg(SEGMENT_BYTES, _ROOM, RECEIVE_FLAGS)
            except BlockingIOError:
                break
            if not data:
                if frames:
                    break
                raise EOFError("the other side has closed the connection")
            if ancillary or flags & _CTRUNC:
                descriptors = array("i")
                for _, _, numbers in ancillary:
                    descriptors.frombytes(numbers)
                self._arrived.append(descriptors.tolist())
            self._incoming += data
            self._take_frames(frames)
        return frames

    def _take_frames(self, frames: list[HostFrame]) -> None:
        incoming, position = self._incoming, 0
        while len(incoming) - position >= _HEAD.size:
            kind, stream, descriptors, worker, size = _HEAD.unpack_from(incoming, position)
            end = position + _HEAD.size + size
            if len(incoming) < end:
                break
            data = bytes(incoming[position + _HEAD.size : end])
            arrived = self._arrived.popleft() if descriptors and self._arrived else []
            frames.append(HostFrame(kind, stream, worker, data, arrived))
            position = end
        del incoming[:position]

    # ---- the end ----

    def close(self) -> None:
        """Hang up, and close all descriptors."""
        self._connection.close()
        for descriptors in (*(segment.descriptors for segment in self._segments), *self._arrived):
            close_all(descriptors)
        self._segments.clear()
        self._arrived.clear()
        self.waiting_bytes = 0


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that have come with a frame."""
    while descriptors:
        with suppress(OSError):
            os.close(descriptors.pop())


def _duplicates(descriptors: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        copies.extend(map(os.dup, descriptors))  # not at once: those before a failure are closed
    except BaseException:
        close_all(copies)
        raise
    return copies
