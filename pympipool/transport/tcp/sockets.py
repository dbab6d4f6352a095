"""Socket options for TCP connections between hosts, and the addresses of this host."""

from __future__ import annotations

import os
import socket
import struct

from pympipool._util.platform import HAS_INTERFACE_QUERY, KEEPALIVE_IDLE, UNACKNOWLEDGED_LIMIT

HOST_GONE_S = 4
"""Seconds within which each side notices that the other host is gone: one second of silence, then three probes."""


def set_nodelay(connection: socket.socket) -> None:
    """Have small messages sent at once instead of collected (TCP_NODELAY)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def enable_keepalive(connection: socket.socket) -> None:
    """Have the kernel end an idle connection within `HOST_GONE_S` after the other host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if KEEPALIVE_IDLE is not None:
        connection.setsockopt(socket.IPPROTO_TCP, KEEPALIVE_IDLE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, HOST_GONE_S - 1)
    if UNACKNOWLEDGED_LIMIT is not None:  # the same limit while sent data is not acknowledged
        connection.setsockopt(socket.IPPROTO_TCP, UNACKNOWLEDGED_LIMIT, HOST_GONE_S * 1000)


def process_has_ended(keepalive: socket.socket) -> bool:
    """Return True if the process at the other end has closed a connection that has ended, or its kernel has reset it."""
    try:
        return keepalive.recv(1, socket.MSG_DONTWAIT) == b""
    except ConnectionResetError:  # its host has answered
        return True
    except OSError:
        return False


def has_hung_up(keepalive: socket.socket) -> bool:
    """Return True if the process at the other end has closed a connection that has ended. To be asked once.

    A kernel that gives a connection up, which its process would open again, resets it. The reset arrives if the network
    is cut off in one direction only, or works again.

    Raises:
        BlockingIOError: The connection goes on.
    """
    try:
        return keepalive.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        raise
    except OSError:
        return False


def own_addresses() -> list[str]:
    """Return the IPv4 addresses under which other hosts may reach this one, the most likely first, without loopback."""
    found: list[str] = []
    try:
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    except OSError:
        pass  # the host's name does not resolve
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
