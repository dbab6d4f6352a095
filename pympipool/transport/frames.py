"""The format of what travels over a control connection; shared by its two ends.

    worker -> master    hello, once: 49 bytes       magic | key | worker | rank | relayed
    viewer -> master    in place of a hello: 8 bytes; the answer is a status in JSON, and the end of the connection
    both directions     frames: u32 length, then a pickle of a tuple (word, ...)

The hello has a fixed size and is no pickle, so nothing is unpickled from an unauthenticated connection. Frames are read
only from a peer that has proved that it knows the key and, on Unix, belongs to the same user.
"""

from __future__ import annotations

import struct

from pympipool._util.cmodules import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from pympipool._core.ring import Segment
    from pympipool._util.cmodules import socket

Frame: TypeAlias = "tuple[Any, ...]"

Packet: TypeAlias = "tuple[memoryview, Sequence[tuple[int, int, bytes]], Sequence[int | Segment]]"
"""Bytes to send, what travels beside them, and what must stay open until then."""

MAGIC = b"pmpool01"

VIEWER_MAGIC = b"pmpview1"
"""First and only bytes of a viewer: a process of the same user that wants to see the status of the executor, as JSON."""

KEY_BYTES = 32

FRAME_LIMIT = 64 << 20
"""Most bytes of one frame. Settings and exceptions are small, and calls do not travel here."""

INHERITED_DESCRIPTORS_MAX = 240
"""Most descriptors of objects of multiprocessing that are sent with the settings. Linux sends up to 253 with one message."""

DESCRIPTORS_MAX = INHERITED_DESCRIPTORS_MAX + 4
"""Most descriptors that come with a frame: also those of the link, and of stdout and stderr."""

_HELLO = struct.Struct(f"<8s{KEY_BYTES}sII?")
_LENGTH = struct.Struct("<I")

STATUS = struct.Struct("<ii")
"""Format of the records in the status pipe of a forked worker: its pid, its exit code (-N: ended by signal N)."""

RUNNING = -(2**31)
"""Takes the place of the exit code in the first record, which the worker itself writes before anything else."""

HELLO_BYTES = _HELLO.size
LENGTH_BYTES = _LENGTH.size


class ProtocolError(ConnectionError):
    """The peer sent something that is no frame, or a frame that is too large."""


def encode_hello(key: bytes, worker: int, rank: int, *, is_relayed: bool = False) -> bytes:
    """Return the first bytes that a worker sends, or the relay in its place."""
    return _HELLO.pack(MAGIC, key, worker, rank, is_relayed)


def decode_hello(hello: bytes | bytearray) -> tuple[bytes, bytes, int, int, bool]:
    """Return magic, key, worker, rank, and True if it comes from the relay, as the peer claims them. Nothing is checked here."""
    magic, key, worker, rank, is_relayed = _HELLO.unpack(hello)
    return magic, key, worker, rank, is_relayed


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame.

    Raises:
        ValueError: The frame is larger than FRAME_LIMIT.
    """
    return with_length(encode_body(frame))


def encode_body(frame: Frame) -> bytes:
    """Return a frame without its length, for a connection that keeps messages apart.

    Raises:
        ValueError: The frame is larger than FRAME_LIMIT.
    """
    body = pickle.dumps(frame, protocol=5)
    if len(body) > FRAME_LIMIT:
        raise ValueError(
            f"a frame of {len(body)} bytes; at most {FRAME_LIMIT} can be sent. Let the function load or compute"
            " large data by itself instead of carrying it along."
        )
    return body


def with_length(body: bytes | bytearray) -> bytes:
    """Return the bytes of a frame, from its body."""
    return _LENGTH.pack(len(body)) + body


def decode_length(head: bytes | bytearray | memoryview) -> int:
    """Return the length of the body that follows.

    Raises:
        ProtocolError: The length is larger than FRAME_LIMIT.
    """
    (length,) = _LENGTH.unpack(head)
    if length > FRAME_LIMIT:
        raise ProtocolError(f"the peer announces a frame of {length} bytes; the limit is {FRAME_LIMIT}")
    return int(length)


def decode_body(body: bytes | bytearray | memoryview) -> Frame:
    """Return the frame in a body. Only for bytes of an authenticated peer.

    Raises:
        ProtocolError: The body is no pickle of a frame.
    """
    try:
        frame = pickle.loads(body)
    except Exception as error:
        raise ProtocolError(f"the peer sent a frame that cannot be unpickled: {error}") from error
    if not (isinstance(frame, tuple) and frame):
        raise ProtocolError(f"the peer sent a {type(frame).__name__}, not a frame (word, ...)")
    return frame


def receive_exactly(connection: socket.socket, size_bytes: int) -> bytearray:
    """Wait for so many bytes.

    Raises:
        EOFError: The master has hung up.
    """
    data = bytearray(size_bytes)
    left = memoryview(data)
    while left:
        count = connection.recv_into(left)
        if not count:
            raise EOFError("the master hung up before it had sent all of its settings")
        left = left[count:]
    return data
