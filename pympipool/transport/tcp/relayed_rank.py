"""What the relay keeps of each rank of another host, however it is connected: its place at the master, and shared data."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pympipool.transport.frames import HELLO_BYTES, decode_hello, encode_body
from pympipool.transport.tcp.handshake import AuthenticationError
from pympipool.transport.tcp.stream import HELLO

if TYPE_CHECKING:
    from pympipool.transport.control_client import WorkerControl
    from pympipool.transport.tcp.master_stream import RankControl
    from pympipool.transport.tcp.stream import Message, Stream


class RelayedRank:
    """One rank on another host.

    Args:
        token: Assigns further connections to this rank.

    Attributes:
        control: The connection to the master in place of the rank; None: the rank has not said yet which one it is.
        gone: One of the sides has ended.
    """

    control: WorkerControl | RankControl | None = None

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.gone = False
        self._data: Stream | None = None  # the connection for shared data

    def report_host_lost(self, reason: str) -> None:
        """Tell the master that the rank's host is gone; the master would wait for an exit code otherwise."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.forward(encode_body(("host_lost", reason)))

    def attach_data(self, stream: Stream) -> None:
        """Have a connection for shared data end with this rank, in place of one before it. From any thread."""
        before, self._data = self._data, stream
        if before is not None:
            before.hang_up()
        if self.gone:
            stream.hang_up()

    def hang_up(self) -> None:
        """End all connections, and so the rank. From any thread."""
        self.gone = True
        if self._data is not None:
            self._data.hang_up()
        if self.control is not None:
            self.control.hang_up()

    def close(self) -> None:
        """Close the descriptors, when no thread uses them any more."""
        if self.control is not None:
            self.control.close()


def parse_hello(hello: Message) -> tuple[int, int]:
    """Return the worker and the rank of a rank's first message.

    Raises:
        AuthenticationError: The message is no hello.
    """
    kind, _, _, parts = hello
    if kind != HELLO or len(parts[0]) != HELLO_BYTES:
        raise AuthenticationError("the first message is no hello")
    _, _, worker, rank, _ = decode_hello(parts[0])
    return worker, rank
