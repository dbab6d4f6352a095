"""Connections to a relay: their addresses, and their options where they lead to other hosts."""

from __future__ import annotations

import os
import socket
import struct
from enum import Enum

from pympipool._util.platform import HAS_INTERFACE_QUERY, KEEPALIVE_IDLE, UNACKNOWLEDGED_LIMIT

_ABSTRACT = "@"
"""How the address of an abstract Unix socket begins."""

HOST_GONE_S = 4
"""Seconds within which each side notices that the other host is gone: one second of silence, then three probes."""


def listen_on_unix_socket(backlog: int) -> tuple[socket.socket, str]:
    """Return an abstract Unix socket that listens, which only this host can reach, and its address."""
    listener = socket.socket(socket.AF_UNIX)
    name = f"pympipool-relay-{os.urandom(16).hex()}"
    listener.bind(f"\0{name}")
    listener.listen(backlog)
    return listener, f"{_ABSTRACT}{name}"


def connect_to(address: str, timeout_s: float) -> socket.socket:
    """Connect to an address of a relay: "host:port", or that of a Unix socket.

    An IPv4 address is passed on as bytes: for a text, Python imports tables of all scripts of the world.

    Raises:
        OSError: It cannot be reached in time.
    """
    if not address.startswith(_ABSTRACT):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.encode(), int(port)), timeout_s)  # type: ignore[arg-type]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"\0{address.removeprefix(_ABSTRACT)}")
    except BaseException:
        connection.close()
        raise
    return connection


def set_nodelay(connection: socket.socket) -> None:
    """Have small messages sent at once instead of collected (TCP_NODELAY)."""
    if connection.family == socket.AF_UNIX:
        return  # it collects nothing
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def enable_keepalive(connection: socket.socket) -> None:
    """Have the kernel end an idle connection within `HOST_GONE_S` after the other host is gone."""
    if connection.family == socket.AF_UNIX:
        return  # both ends are on one host
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if KEEPALIVE_IDLE is not None:
        connection.setsockopt(socket.IPPROTO_TCP, KEEPALIVE_IDLE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, HOST_GONE_S - 1)
    if UNACKNOWLEDGED_LIMIT is not None:  # the same limit while sent data is not acknowledged
        connection.setsockopt(socket.IPPROTO_TCP, UNACKNOWLEDGED_LIMIT, HOST_GONE_S * 1000)


class State(Enum):
    """What is known of a keepalive connection."""

    OPEN = "it goes on"
    CLOSED = "the process at the other end has closed it"
    RESET = "the other host has answered, and knows nothing of it: its process has ended, or its kernel had given it up"
    LOST = "the other host does not answer"


def state_of(keepalive: socket.socket) -> State:
    """Return the state of a keepalive connection. To be asked once: a connection that was lost, or reset, is closed afterwards.

    A kernel that gives a connection up, which its process would open again, resets it. The reset arrives if the network
    is cut off in one direction only, or works again.
    """
    try:
        return State.CLOSED if keepalive.recv(1, socket.MSG_DONTWAIT) == b"" else State.OPEN
    except BlockingIOError:
        return State.OPEN
    except ConnectionResetError:
        return State.RESET
    except OSError:
        return State.LOST


def own_addresses() -> list[str]:
    """Return the IPv4 addresses under which other hosts may reach this one, the most likely first, without loopback."""
    found: list[str] = []
    try:
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    except (OSError, UnicodeError):
        pass  # the host's name does not resolve, or cannot be a name in DNS
    found += _interface_addresses()
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")]


def _interface_addresses() -> list[str]:
    """Return the IPv4 address of each network interface. Only on Linux; elsewhere an empty list."""
    if not HAS_INTERFACE_QUERY:
        return []
    import fcntl

    get_address, address_at = 0x8915, slice(20, 24)  # SIOCGIFADDR; struct ifreq: name, then sockaddr_in
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket, get_address, struct.pack("256s", os.fsencode(name)))
            except OSError:
                continue  # this interface has no IPv4 address
            found.append(socket.inet_ntoa(answer[address_at]))
    return found
