"""A rank of another host with a connection to the relay of its own. It has a control connection to the master, and uses a ring.

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
from pympipool.transport.frames import encode_body
from pympipool.transport.shm import open_channel
from pympipool.transport.tcp.prefetch import PrefetchQueue
from pympipool.transport.tcp.relayed_rank import RelayedRank, parse_hello
from pympipool.transport.tcp.sockets import HOST_GONE_S
from pympipool.transport.tcp.stream import CONTROL, READY, RECALL, Message, Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class RemoteRank(RelayedRank):
    """One rank on another host; a thread forwards what the rank and the master send to each other.

    Args:
        stream: The rank's connection, after its handshake.
        keepalive: The keepalive connection; it tells of the end of the rank's process, and of its host.
        config: Address and key of the master. Worker number and rank come with the hello.
        token: Assigns further connections to this rank.
        hello: The rank's first message.
    """

    control: WorkerControl | None = None

    def __init__(
        self, stream: Stream, keepalive: socket.socket, config: WorkerConfig, token: bytes, hello: Message
    ) -> None:
        super().__init__(token)
        self._config = config
        self.stream = stream
        self.keepalive = keepalive
        self._received = 0  # bytes at the last check
        self._queue: PrefetchQueue | None = None
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
        self.stream.set_timeout(None)  # from here on the keepalive connection tells whether the rank is there
        control, rank = self.connect()
        on_connected(self)  # before the settings, which come when the last rank has connected
        settings, descriptors = self.receive_setup(control)
        channel = open_channel(descriptors) if rank == 0 else None
        self.stream.send(CONTROL, 0, 0, [encode_body(("setup", settings))])
        while True:
            kind, _, _, parts = self.stream.receive()
            control.forward(parts[0])
            if kind == READY and channel is not None:
                self._queue = PrefetchQueue(
                    channel, self.stream, self._request_recall, control.forward, lambda: self.gone
                )
                self._relay_calls(self._queue)
                return

    def connect(self) -> tuple[WorkerControl, int]:
        """Connect to the master, and send it the rank's first message; return the connection, and the number of the rank.

        Raises:
            AuthenticationError: The message is no hello.
            OSError: The master is gone.
        """
        worker, rank = parse_hello(self._hello)
        config = WorkerConfig(self._config.address, self._config.key, worker, ranks=1, launcher="")
        control = self.control = WorkerControl.connect(config)
        control.send_hello(config, rank, is_relayed=True)
        return control, rank

    def receive_setup(self, control: WorkerControl) -> tuple[dict[str, Any], list[int]]:
        """Wait for the settings of the rank; return them, and the descriptors of its link.

        Raises:
            EOFError: The master does not accept this rank.
        """
        settings, descriptors = control.receive_setup()
        if settings["direct_output"]:  # for ranks of this host only
            *descriptors, stdout, stderr = descriptors
            os.close(stdout)
            os.close(stderr)
        return settings, descriptors

    def _request_recall(self) -> None:
        with contextlib.suppress(BlockingIOError):  # earlier requests are still unread: one more adds nothing
            self.keepalive.send(RECALL, socket.MSG_DONTWAIT)

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
        """Tell the master that the rank's host is gone, and hang up."""
        self.report_host_lost(f"its host has not answered for {HOST_GONE_S} s")
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections, and so the rank. From any thread."""
        super().hang_up()
        self.stream.hang_up()
        with contextlib.suppress(OSError):  # it has ended already
            self.keepalive.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptors, after the thread has ended."""
        self.stream.close()
        self.keepalive.close()
        super().close()
