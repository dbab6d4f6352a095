"""Whoever connects to a listener of ours: workers, strangers, and processes of other users."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys

import pytest

from pympipool.transport.control_server import Connection, Listener

LIMIT_S = 30.0

OTHER_USER = 65534

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become another user: sudo python -m pytest tests/links",
)


def socket_address(address: str) -> str:
    """An address as the socket module wants it."""
    return f"\0{address[1:]}" if address.startswith("@") else address


def knock(listener: Listener) -> socket.socket:
    """Connects to a listener, and says nothing."""
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(LIMIT_S)
    try:
        stranger.connect(socket_address(listener.address))
    except BaseException:
        stranger.close()
        raise
    return stranger


def readable(descriptor: object, limit_s: float = LIMIT_S) -> bool:
    """Waits until something can be read."""
    return bool(select.select([descriptor], [], [], limit_s)[0])


def let_in(listener: Listener) -> Connection:
    """Waits for somebody to connect, and accepts."""
    assert readable(listener)
    connection = listener.accept()
    assert connection is not None
    return connection


def was_dropped(stranger: socket.socket) -> bool:
    """Whether the other side has hung up."""
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


def run_as_other_user(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code as another user."""
    become = f"import os, socket, sys; os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\n"
    return subprocess.run(
        [sys.executable, "-S", "-E", "-c", become + program, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
