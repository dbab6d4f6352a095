"""The rank's end of a link to another host.

    TcpControl.connect(orders)      the first of the master's addresses where somebody proves the executor's key
      .greet(rank)                  hello
      .receive_setup()              settings
      .open_channel()               TcpChannel: receive and answer, as of `ring.Channel`
      .ready() .failed() .raised() .leaving()  as of `WorkerControl`

What the serving loops see is the same as on the master's own host. The connection is the main thread's, but while that
runs a call: then another one gives back, when it is asked to over the lifeline, the calls that were sent ahead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from time import monotonic, monotonic_ns, sleep
from typing import Any

from pympipool._core.ring import CALL, TIMED
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.frames import KEY_BYTES, ProtocolError, decode_body, encode_body, encode_hello
from pympipool.transport.tcp.stream import (
    CONTROL,
    HANDSHAKE_S,
    HELLO,
    LIFELINE_MAGIC,
    READY,
    RECALLED,
    RESUME,
    Message,
    Stream,
    client_context,
    enable_keepalive,
    join,
    set_nodelay,
)

ADDRESS_LIMIT_S = 3.0
"""How long to wait for one address before the next is tried."""

PAUSE_S = 0.5
"""Between two rounds through all addresses."""

REFUSALS_MAX = 3
"""Rounds in which every address says that nobody listens; then the master is gone."""


class UnreachableError(ConnectionError):
    """The master cannot be reached from this host."""


class TcpControl:
    """The connection of this rank to a master on another host."""

    def __init__(self, stream: Stream, lifeline: socket.socket) -> None:
        self._stream = stream
        self._lifeline = lifeline
        self._stream_is_ours = threading.RLock()
        # The end of the connection is the end of this rank: the relay has it killed then. So it ends with the process, and
        # not with Python's objects, which go while exit functions are still to run and MPI is to be finalized.
        os.dup(stream.fileno())

    @classmethod
    def connect(cls, orders: WorkerConfig) -> TcpControl:
        """Connects to the master's relay.

        Raises:
            UnreachableError: No address works within the time that the orders allow; says which, why, and what to do.
        """
        context = client_context()
        deadline = monotonic() + orders.connect_limit_s
        refusals = 0
        while True:
            failures: dict[str, Exception] = {}
            for address in orders.tcp_addresses:
                try:
                    return cls(*_connect(address, orders, context, deadline))
                except (OSError, EOFError) as error:
                    failures[address] = error
            refusals += all(isinstance(error, ConnectionRefusedError) for error in failures.values())
            if monotonic() + PAUSE_S > deadline or refusals >= REFUSALS_MAX:
                raise UnreachableError(_why_unreachable(orders, failures))
            sleep(PAUSE_S)

    def fileno(self) -> int:
        """For the watchdog: the lifeline."""
        return self._lifeline.fileno()

    def send_hello(self, orders: WorkerConfig, rank: int) -> None:
        """Says which rank we are."""
        self._stream.send(HELLO, 0, 0, [encode_hello(bytes(KEY_BYTES), orders.worker, rank)])

    def receive_setup(self) -> tuple[dict[str, Any], list[int]]:
        """Waits for the settings; there are no descriptors.

        Raises:
            EOFError: the master hung up; it does not want us.
            ProtocolError: the frame is not a setup.
        """
        kind, _, _, parts = self._stream.receive()
        word, *fields = decode_body(parts[0])
        if kind != CONTROL or word != "setup" or len(fields) != 1:
            raise ProtocolError(f"the master sent a {word!r} frame where a setup was expected")
        return fields[0], []

    def open_channel(self, _descriptors: Sequence[int]) -> TcpChannel:
        """What calls come from and results go to."""
        return TcpChannel(self._stream, self._lifeline, self._stream_is_ours)

    def ready(self, rank: int) -> None:
        """Says that serving begins."""
        self._tell(READY, ("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank}))

    def failed(self, parts: Sequence[Any]) -> None:
        """Says why we cannot serve: the parts of an exception."""
        self._tell(CONTROL, ("failed", [bytes(part) for part in parts]))

    def raised(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Says that this rank's call raised (see `WorkerControl.raised`)."""
        self._tell(CONTROL, ("raised", rank, call, [bytes(part) for part in parts]))

    def leaving(self, why: str) -> None:
        """Says that we end now (see `WorkerControl.leaving`)."""
        self._tell(CONTROL, ("leaving", why))

    def _tell(self, kind: int, frame: tuple[Any, ...]) -> None:
        with self._stream_is_ours:
            self._stream.send(kind, 0, 0, [encode_body(frame)])


class TcpChannel:
    """Messages to and from the master, as of `ring.Channel`. For the thread that makes it.

    Args:
        stream: The connection.
        lifeline: Where the relay asks for calls back.
        stream_is_ours: Held by whoever may use the stream: the main thread, but while it runs a call.
    """

    def __init__(self, stream: Stream, lifeline: socket.socket, stream_is_ours: threading.RLock) -> None:
        self._stream = stream
        self._stream_is_ours = stream_is_ours
        self._running = 0
        self._asked = False
        self._given_back = 0  # so often, and not told to go on yet
        self._received_ns = 0
        self.stamps: list[int] = []
        stream_is_ours.acquire()
        threading.Thread(target=self._listen, args=(lifeline,), name="pympipool_give_back", daemon=True).start()

    def receive(self) -> Message:
        """The next message, waited for; a call that it brings has begun."""
        while True:
            message = self._stream.receive()
            kind = message[0]
            if kind == RESUME:
                self._given_back -= 1
            elif kind != CALL:
                return message
            elif not self._given_back:
                self._running = message[1]
                self._received_ns = monotonic_ns()
                self._stream_is_ours.release()
                if self._asked:
                    self._give_back()
                return message

    def answer(self, kind: int, id: int, parts: Sequence[Any], run_ns: int = -1) -> None:  # noqa: A002  as on a channel
        """Sends the answer to the call that has begun, with its times and `stamps` if these are wanted.

        Returns when its last byte is on its way.
        """
        begun_ns, ended_ns = self._received_ns, monotonic_ns()
        if id & TIMED:
            times = (begun_ns, ended_ns, *self.stamps)
            parts = [*parts, struct.pack(f"={len(times)}q", *times)]
            self.stamps.clear()
        self._stream_is_ours.acquire()
        self._stream.send(kind, id, ended_ns - begun_ns if run_ns < 0 else run_ns, parts)

    def _listen(self, lifeline: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the master is gone, and this process about to be
            while lifeline.recv(1):
                self._asked = True  # before the look at who uses the stream: if we may not, its user sees this
                self._give_back()

    def _give_back(self) -> None:
        """Tells that what was sent behind the call that runs will not be run. If none does, the next one to begin tells."""
        if self._stream_is_ours.acquire(blocking=False):
            try:
                self._asked = False
                self._stream.send(RECALLED, self._running, 0, [b""])
                self._given_back += 1
            finally:
                self._stream_is_ours.release()


def _connect(
    address: str, orders: WorkerConfig, context: ssl.SSLContext, deadline: float
) -> tuple[Stream, socket.socket]:
    """Both connections to a relay that has proved the key."""
    host, _, port = address.rpartition(":")
    limit_s = max(min(ADDRESS_LIMIT_S, deadline - monotonic()), 0.1)
    connection = socket.create_connection((host, int(port)), limit_s)
    try:
        connection.settimeout(HANDSHAKE_S)
        set_nodelay(connection)
        stream, token = join(connection, context, orders.key)
    except BaseException:
        connection.close()
        raise
    try:
        lifeline = socket.create_connection((host, int(port)), HANDSHAKE_S)
    except BaseException:
        stream.close()
        raise
    enable_keepalive(lifeline)
    lifeline.sendall(LIFELINE_MAGIC + token)
    lifeline.settimeout(None)
    stream.set_timeout(None)
    return stream, lifeline


def _why_unreachable(orders: WorkerConfig, failures: dict[str, Exception]) -> str:
    tried = "; ".join(f"{address}: {error}" for address, error in failures.items()) or "no address was given"
    if failures and all(isinstance(error, ConnectionRefusedError) for error in failures.values()):
        time = "nobody listens there: the master has ended, or something between the hosts refuses connections"
    else:
        time = f"within connect_timeout={orders.connect_limit_s:g} s"
    return (
        f"worker {orders.worker} on host {socket.gethostname()} cannot connect to the master on host"
        f" {orders.master_host}, {time} ({tried}). Hosts must be able to open TCP connections to the host where the"
        " script runs: run it on a node of the cluster, or have its firewall let the nodes in; with"
        " hostname_localhost=True only workers on the master's own host can connect"
    )
