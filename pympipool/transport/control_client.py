"""The worker's end of a control connection.

    from_environ(environ)              what the master has put into the environment, taken out of it
    connect(orders)                   is the master on this host? Then a WorkerControl, else a TcpControl
    WorkerControl.connect(orders)     is the listener of our user?
      .greet(rank)                    hello
      .receive_setup()                settings, and for rank 0 the descriptors of the link
      .ready() .failed() .raised() .leaving()    what the master must know besides results

Blocking throughout: a rank has nothing else to do meanwhile, and its watchdog ends it when the master is gone.
"""

from __future__ import annotations

import os
import struct

from pympipool._util.cmodules import socket
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import (
    LENGTH_BYTES,
    SEND_FLAGS,
    ProtocolError,
    decode_body,
    decode_length,
    encode_frame,
    encode_hello,
    peer_uid,
    with_length,
)
from pympipool.transport.shm import open_channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    from pympipool._core.ring import Channel
    from pympipool.transport.tcp.client import TcpChannel, TcpControl

    Control: TypeAlias = "WorkerControl | TcpControl"
    Link: TypeAlias = "Channel | TcpChannel"

_DESCRIPTORS_MAX = 4
_DESCRIPTOR_BYTES = struct.calcsize("i")
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def connect(orders: WorkerConfig) -> WorkerControl | TcpControl:
    """Connects to the master: over its Unix socket where that works, which proves that it is on this host, else TCP.

    Raises:
        OSError: the master is gone, or cannot be reached from here.
        PermissionError: another user listens there.
    """
    if not orders.tcp_addresses:
        return WorkerControl.connect(orders)
    try:
        return WorkerControl.connect(orders)
    except (ConnectionRefusedError, FileNotFoundError):  # there is no such socket on this host
        from pympipool.transport.tcp.client import TcpControl

        return TcpControl.connect(orders)


class WorkerControl:
    """The connection of this rank to the master."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    def connect(cls, orders: WorkerConfig) -> WorkerControl:
        """Connects to the listener, and checks that it is of our own user.

        Raises:
            OSError: the master is gone.
            PermissionError: another user listens there.
        """
        address = orders.address
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            uid = peer_uid(connection)
            if uid != os.geteuid():
                raise PermissionError(f"user {uid} listens at {address}, not our user {os.geteuid()}; nothing was said")
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        """For the watchdog."""
        return self._socket.fileno()

    def send_hello(self, orders: WorkerConfig, rank: int) -> None:
        """Says who we are."""
        self._send(encode_hello(orders.key, orders.worker, rank))

    def receive_setup(self) -> tuple[dict[str, Any], list[int]]:
        """Waits for the settings, and for the descriptors that come with them to rank 0.

        Raises:
            EOFError: the master hung up; it does not want us.
            ProtocolError: the frame is not a setup.
        """
        room = socket.CMSG_SPACE(_DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)
        head, ancillary, _, _ = self._socket.recvmsg(LENGTH_BYTES, room, _RECEIVE_FLAGS)
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(data) // _DESCRIPTOR_BYTES
                descriptors += struct.unpack_from(f"{count}i", data)
        head += self._receive(LENGTH_BYTES - len(head))
        word, *fields = decode_body(self._receive(decode_length(head)))
        if word != "setup" or len(fields) != 1:
            raise ProtocolError(f"the master sent a {word!r} frame where a setup was expected")
        return fields[0], descriptors

    def open_channel(self, descriptors: Sequence[int]) -> Channel:
        """What calls come from and results go to (see `shm.open_channel`)."""
        return open_channel(descriptors)

    def ready(self, rank: int) -> None:
        """Says that serving begins."""
        self._send(encode_frame(("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank})))

    def failed(self, parts: Sequence[Any]) -> None:
        """Says why we cannot serve: the parts of an exception."""
        self._send(encode_frame(("failed", [bytes(part) for part in parts])))

    def raised(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Says that this rank's call raised, while the others may wait for it in a collective.

        Raises:
            ValueError: the exception is larger than a frame may be; nothing was sent.
        """
        self._send(encode_frame(("raised", rank, call, [bytes(part) for part in parts])))

    def leaving(self, why: str) -> None:
        """Says that we end now, untold, and why."""
        self._send(encode_frame(("leaving", why)))

    def pass_on(self, body: bytes | bytearray) -> None:
        """Sends a frame that somebody else has made."""
        self._send(with_length(body))

    def hang_up(self) -> None:
        """Ends the connection, which stays open for whoever still uses its descriptor. From any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def close(self) -> None:
        """Hangs up. In a worker the connection stays open to the end: its watchdog looks at it."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data, SEND_FLAGS)

    def _receive(self, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        left = memoryview(data)
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise EOFError("the master hung up before it had sent all of its settings")
            left = left[count:]
        return data
