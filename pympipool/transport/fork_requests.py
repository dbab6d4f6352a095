"""Requests for forked workers over a Unix socket: a byte, and descriptors.

    send_request(socket, body, pipes) ── a byte; file with the body, pipes ──> receive_request(socket)

The body is in a file in memory, whose descriptor comes first. So the receiver's buffer takes hundreds of requests of any
size, and a sender never waits for the receiver to read.
"""

from __future__ import annotations

import contextlib
import os
from array import array

from pympipool._util.cmodules import socket
from pympipool._util.platform import RECEIVE_FLAGS, SEND_FLAGS, memory_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

_DESCRIPTORS_MAX = 6
"""Most descriptors of a request: the body, stdout, stderr and status pipe of a worker, and its two connections to an agent."""


def send_request(connection: socket.socket, body: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a request.

    Raises:
        OSError: The receiver is gone; or there is no room, and the socket does not block.
    """
    with memory_file() as file:
        file.write(body)
        file.flush()
        pass_descriptors(connection, b"\0", (file.fileno(), *descriptors))


def pass_descriptors(connection: socket.socket, byte: bytes, descriptors: Sequence[int]) -> None:
    """Send a byte with descriptors.

    Raises:
        OSError: The receiver is gone; or there is no room, and the socket does not block.
    """
    passed = array("i", descriptors)
    connection.sendmsg([byte], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)], SEND_FLAGS)


def receive_descriptors(connection: socket.socket, size: int = 1) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes, and the descriptors that come with them.

    Raises:
        OSError: The sender is gone; or nothing has arrived, and the socket does not block.
    """
    descriptors = array("i")
    room = socket.CMSG_SPACE(descriptors.itemsize * _DESCRIPTORS_MAX)
    data, ancillary, _, _ = connection.recvmsg(size, room, RECEIVE_FLAGS)
    for _, _, numbers in ancillary:
        descriptors.frombytes(numbers)
    return data, [*descriptors]


def receive_request(connection: socket.socket) -> list[int] | None:
    """Return the descriptors of the next request, that of its body first; None when the sender is gone."""
    try:
        byte, descriptors = receive_descriptors(connection)
    except OSError:
        return None
    return descriptors if byte else None


def read_body(file: int) -> bytes:
    """Return the body of a request."""
    return os.pread(file, os.fstat(file).st_size, 0)


def memory_file() -> BinaryIO:
    """Return a new file in memory that only this user may open; where the system has none, a temporary file without a name."""
    if memory_descriptor is not None:
        with contextlib.suppress(OSError):
            file = os.fdopen(memory_descriptor("pympipool_fork_server"), "w+b")
            os.fchmod(file.fileno(), 0o600)  # the system creates it with all permissions for everybody
            return file
    import tempfile  # only here: it takes longer to import than an executor to start

    return tempfile.TemporaryFile()
