"""Requests for forked workers over a Unix socket: a few bytes, and descriptors.

    RequestSender.send(template, number, pipes) ── file with the template, if it is another one ──> receive_request(socket)
                                                ── number; pipes ────────────────────────────────>

The template is what many workers have in common. It is in a file in memory, so the receiver's buffer takes hundreds of requests
with templates of any size, and a sender never waits for the receiver to read.
"""

from __future__ import annotations

import contextlib
import os
import struct
from array import array

from pympipool._util.cmodules import socket
from pympipool._util.platform import RECEIVE_FLAGS, SEND_FLAGS, memory_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, TypeAlias

    Request: TypeAlias = "tuple[bool, int, list[int]]"

_HEAD = struct.Struct("<?I")  # is it a template? the number of a worker

_DESCRIPTORS_MAX = 5
"""Most descriptors of a request: stdout, stderr and status pipe of a worker, and its two connections to an agent."""


class RequestSender:
    """Sends requests over one connection.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._template = b""  # the one that was sent last

    def send(self, template: bytes, number: int, descriptors: Sequence[int]) -> None:
        """Send a request.

        Args:
            template: What the worker has in common with others.
            number: Its number.
            descriptors: Its stdout, stderr and status pipe, and from an agent its two connections to it.

        Raises:
            OSError: The receiver is gone; or there is no room, and the socket does not block.
        """
        if template != self._template:
            with memory_file() as file:
                file.write(template)
                file.flush()
                pass_descriptors(self._connection, _HEAD.pack(True, 0), (file.fileno(),))
            self._template = template
        pass_descriptors(self._connection, _HEAD.pack(False, number), descriptors)


def pass_descriptors(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send a few bytes with descriptors.

    Raises:
        OSError: The receiver is gone; or there is no room, and the socket does not block.
    """
    passed = array("i", descriptors)
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)], SEND_FLAGS)


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


def receive_request(connection: socket.socket) -> Request | None:
    """Return the next request: True if it is a template, the number of a worker, and descriptors; None when the sender is gone."""
    try:
        head, descriptors = receive_descriptors(connection, _HEAD.size)
    except OSError:
        return None
    return (*_HEAD.unpack(head), descriptors) if head else None


def read_template(descriptors: list[int]) -> bytes:
    """Return a template from the descriptors that it has come with, and close them."""
    (file,) = descriptors
    try:
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def memory_file() -> BinaryIO:
    """Return a new file in memory that only this user may open; where the system has none, a temporary file without a name."""
    if memory_descriptor is not None:
        with contextlib.suppress(OSError):
            file = os.fdopen(memory_descriptor("pympipool_fork_server"), "w+b")
            os.fchmod(file.fileno(), 0o600)  # the system creates it with all permissions for everybody
            return file
    import tempfile  # only here: it takes longer to import than an executor to start

    return tempfile.TemporaryFile()
