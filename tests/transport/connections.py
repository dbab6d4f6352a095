"""Connections to a listener, from this process and from processes of other users."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import threading

import pytest

from pympipool.transport.control_server import Connection, Listener
from pympipool.transport.tcp.handshake import (
    client_context,
    client_handshake,
    server_context,
    server_handshake,
    server_socket,
)
from pympipool.transport.tcp.stream import Stream

LIMIT_S = 60.0

STREAM_KEY = bytes(32)

OTHER_USER = 65534

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become another user: sudo python -m pytest tests/transport",
)


def socket_address(address: str) -> str:
    """Return an address in the form that the socket module expects."""
    return f"\0{address[1:]}" if address.startswith("@") else address


def connect_to(listener: Listener) -> socket.socket:
    """Connect to a listener, and send nothing."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(LIMIT_S)
    try:
        peer.connect(socket_address(listener.address))
    except BaseException:
        peer.close()
        raise
    return peer


def wait_readable(descriptor: object, limit_s: float = LIMIT_S) -> bool:
    """Wait until something can be read; return False if the time is over."""
    return bool(select.select([descriptor], [], [], limit_s)[0])


def accept_from(listener: Listener) -> Connection:
    """Wait for a connection, and accept it."""
    assert wait_readable(listener)
    connection = listener.accept()
    assert connection is not None
    return connection


def is_dropped(peer: socket.socket) -> bool:
    """Return True if the other side has hung up."""
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def run_as_other_user(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as another user."""
    become = f"import os, socket, sys; os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\n"
    return subprocess.run(
        [sys.executable, "-S", "-E", "-c", become + program, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def reset(connection: socket.socket) -> None:
    """Close a TCP connection as a kernel does that gives it up: the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def connected_streams(ends: tuple[socket.socket, socket.socket] | None = None) -> list[Stream]:
    """Return two ends of an encrypted connection, made of the ends of another one if there are some."""
    ends = ends or socket.socketpair()
    streams: list[Stream] = []

    def serve() -> None:
        streams.append(server_handshake(server_socket(ends[0], server_context()), STREAM_KEY, bytes(16)))

    thread = threading.Thread(target=serve)
    thread.start()
    other, _ = client_handshake(ends[1], client_context(), STREAM_KEY)
    thread.join()
    return [*streams, other]
