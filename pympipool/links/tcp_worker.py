"""The rank's end of a link to another host.

    TcpControl.connect(orders)      the first of the master's addresses where somebody proves the executor's key
      .greet(rank)                  hello
      .receive_setup()              settings
      .open_channel()               TcpChannel: receive and send, as of `_ring.Channel`
      .ready() .failed() .raised()  as of `WorkerControl`

What the serving loops see is the same as on the master's own host. The connection is for the main thread only.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

from pympipool.links.control_worker import Orders
from pympipool.links.frames import KEY_BYTES, ProtocolError, decode_body, encode_body, encode_hello
from pympipool.links.tcp import (
    CONTROL,
    HANDSHAKE_S,
    HELLO,
    LIFELINE_MAGIC,
    READY,
    Stream,
    ask_for_life,
    client_context,
    join,
    send_at_once,
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

    @classmethod
    def connect(cls, orders: Orders) -> TcpControl:
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

    def greet(self, orders: Orders, rank: int) -> None:
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
        return TcpChannel(self._stream)

    def ready(self, rank: int) -> None:
        """Says that serving begins."""
        self._tell(READY, ("ready", {"pid": os.getpid(), "host": socket.gethostname(), "rank": rank}))

    def failed(self, parts: Sequence[Any]) -> None:
        """Says why we cannot serve: the parts of an exception."""
        self._tell(CONTROL, ("failed", [bytes(part) for part in parts]))

    def raised(self, rank: int, call: int, parts: Sequence[Any]) -> None:
        """Says that this rank's call raised (see `WorkerControl.raised`)."""
        self._tell(CONTROL, ("raised", rank, call, [bytes(part) for part in parts]))

    def _tell(self, kind: int, frame: tuple[Any, ...]) -> None:
        self._stream.send(kind, 0, 0, [encode_body(frame)])


class TcpChannel:
    """Messages to and from the master, as of `_ring.Channel`."""

    def __init__(self, stream: Stream) -> None:
        self.send = stream.send
        self.receive = stream.receive


def _connect(address: str, orders: Orders, context: ssl.SSLContext, deadline: float) -> tuple[Stream, socket.socket]:
    """Both connections to a relay that has proved the key."""
    host, _, port = address.rpartition(":")
    limit_s = max(min(ADDRESS_LIMIT_S, deadline - monotonic()), 0.1)
    connection = socket.create_connection((host, int(port)), limit_s)
    try:
        connection.settimeout(HANDSHAKE_S)
        send_at_once(connection)
        stream, token = join(connection, context, orders.key)
    except BaseException:
        connection.close()
        raise
    try:
        lifeline = socket.create_connection((host, int(port)), HANDSHAKE_S)
    except BaseException:
        stream.close()
        raise
    ask_for_life(lifeline)
    lifeline.sendall(LIFELINE_MAGIC + token)
    lifeline.settimeout(None)
    stream.set_timeout(None)
    return stream, lifeline


def _why_unreachable(orders: Orders, failures: dict[str, Exception]) -> str:
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
