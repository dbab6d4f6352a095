"""A rank of another host as the relay sees it: it has a control connection to the master, and uses the worker's ring.

    master ◄── ring ────► PrefetchQueue ─┬─ stream ────► rank
           ◄── control ── RemoteRank ────┘
                              ▲ keepalive connection: the end of the process, and of the host

A thread of the relay serves each rank. Another one serves its connection for shared data, if it has one (`shared_source.py`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.frames import HELLO_BYTES, decode_hello, encode_body
from pympipool.transport.shm import open_channel
from pympipool.transport.tcp.handshake import AuthenticationError
from pympipool.transport.tcp.prefetch import PrefetchQueue
from pympipool.transport.tcp.sockets import HOST_GONE_S
from pympipool.transport.tcp.stream import CONTROL, HELLO, READY, Message, Stream

if TYPE_CHECKING:
    from collections.abc import Callable


class RemoteRank:
    """One rank on another host; a thread forwards what the rank and the master send to each other.

    Args:
        stream: The rank's connection, after its handshake.
        keepalive: The keepalive connection; it tells of the end of the rank's process, and of its host.
        config: Address and key of the master. Worker number and rank come with the hello.
        token: Assigns further connections to this rank.
        hello: The rank's first message.
    """

    def __init__(
        self, stream: Stream, keepalive: socket.socket, config: WorkerConfig, token: bytes, hello: Message
    ) -> None:
        self.stream = stream
        self.keepalive = keepalive
        self.token = token
        self.control: WorkerControl | None = None
        self.gone = False
        self._data: Stream | None = None  # the connection for shared data
        self._received = 0  # bytes at the last check
        self._queue: PrefetchQueue | None = None
        self._config = config
        self._hello = hello

    def serve(self, on_connected: Callable[[RemoteRank], None]) -> None:
        """Run until either side is gone."""
        try:
            self._serve(on_connected)
        except (OSError, EOFError, ValueError):
            pass  # either side is gone, or the master does not accept this rank
        finally:
            self.hang_up()

    def _serve(self, on_connected: Callable[[RemoteRank], None]) -> None:
        kind, _, _, parts = self._hello
        if kind != HELLO or len(parts[0]) != HELLO_BYTES:
            raise AuthenticationError("the first message is no hello")
        self.stream.set_timeout(None)  # from here on the keepalive connection tells whether the rank is there
        _, _, worker, rank, _ = decode_hello(parts[0])
        config = WorkerConfig(self._config.address, self._config.key, worker, ranks=1, launcher="")
        self.control = control = WorkerControl.connect(config)
        control.send_hello(config, rank, is_relayed=True)
        on_connected(self)  # before the settings, which come when the last rank has connected
        settings, descriptors = control.receive_setup()
        if settings["direct_output"]:  # for ranks of this host only
            *descriptors, stdout, stderr = descriptors
            os.close(stdout)
            os.close(stderr)
        channel = open_channel(descriptors) if rank == 0 else None
        self.stream.send(CONTROL, 0, 0, [encode_body(("setup", settings))])
        while True:
            kind, _, _, parts = self.stream.receive()
            control.forward(parts[0])
            if kind == READY and channel is not None:
                self._queue = PrefetchQueue(channel, self.stream, self.keepalive, control.forward, lambda: self.gone)
                self._relay_calls(self._queue)
                return

    def _relay_calls(self, queue: PrefetchQueue) -> None:
        try:
            while not self.gone:
                queue.forward_next()
        except (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            if not self.gone:  # the worker has ended by itself, so it begins no further call
                queue.return_unstarted()
            raise

    @property
    def idle(self) -> bool:
        """True while the rank has no call."""
        return self._queue is not None and self._queue.idle

    def is_receiving(self) -> bool:
        """Return True if the rank's thread takes messages from it, or passes them on to the master. From any thread."""
        if self.gone or self._queue is None:
            return False
        before, self._received = self._received, self.stream.received_bytes
        return self._queue.is_sending or self._received != before

    def mark_lost(self) -> None:
        """Tell the master that the rank's host is gone; the master would wait for an exit code otherwise."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.forward(encode_body(("host_lost", f"its host has not answered for {HOST_GONE_S} s")))
        self.hang_up()

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
        self.stream.hang_up()
        if self._data is not None:
            self._data.hang_up()
        with contextlib.suppress(OSError):  # it has ended already
            self.keepalive.shutdown(socket.SHUT_RDWR)
        if self.control is not None:
            self.control.hang_up()

    def close(self) -> None:
        """Close the descriptors, after the thread has ended."""
        self.stream.close()
        self.keepalive.close()
        if self.control is not None:
            self.control.close()
