"""Connections to the relay whose peers have not proved yet that they know the key.

Any process of the network can connect. Each connection costs a thread and a descriptor, so there is a limit to their number. Where
strangers connect all the time, the oldest connection gives way to the next one after `KEEPS_PLACE_S`: so workers get their turn.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from time import monotonic

from pympipool.transport.tcp.handshake import server_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

UNPROVED_MAX = 256
"""Most connections at the same time of peers that have proved nothing."""

KEEPS_PLACE_S = 5.0
"""Time that each of them has in any case: hundreds of ranks may have their handshakes at the same time. Others wait meanwhile."""


class Unproved:
    """One of them.

    Attributes:
        socket: The connection, or the TLS socket that has taken its place.
        accepted_s: When it was accepted (monotonic).
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.accepted_s = monotonic()


class UnprovedConnections:
    """All of them; for any thread."""

    def __init__(self) -> None:
        self._all: dict[Unproved, None] = {}  # oldest first
        self._lock = threading.Lock()

    def make_room(self) -> bool:
        """Return True if another connection may be accepted. If there are too many, hang up on the oldest one, after its time."""
        with self._lock:
            if len(self._all) < UNPROVED_MAX:
                return True
            oldest = next(iter(self._all))
            if oldest.accepted_s + KEEPS_PLACE_S > monotonic():
                return False
            del self._all[oldest]
            with contextlib.suppress(OSError):  # the peer has hung up
                socket.socket.shutdown(oldest.socket, socket.SHUT_RDWR)  # not that of TLS: a thread works with it
        return True

    def add(self, connection: socket.socket) -> Unproved:
        """Take a connection that was accepted."""
        unproved = Unproved(connection)
        with self._lock:
            self._all[unproved] = None
        return unproved

    def remove(self, unproved: Unproved) -> None:
        """Note that a connection has proved what it is, or is about to be closed."""
        with self._lock:
            self._all.pop(unproved, None)

    def start_tls(self, unproved: Unproved, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Put a TLS socket in place of that of a connection."""
        with self._lock:
            tls = unproved.socket = server_socket(unproved.socket, context)
        return tls
