"""Connections to the relay that have proved nothing: the oldest one gives way, so that no worker is kept out."""

import socket

import pytest

from pympipool.transport.tcp import unproved
from pympipool.transport.tcp.handshake import server_context
from pympipool.transport.tcp.unproved import UnprovedConnections
from transport.connections import LIMIT_S, is_dropped


@pytest.fixture
def connect(monkeypatch):
    """connect(): a connection that was accepted, and its other end."""
    monkeypatch.setattr(unproved, "UNPROVED_MAX", 2)
    connections, ends = UnprovedConnections(), []

    def connect():
        ends.extend(socket.socketpair())
        ends[-1].settimeout(LIMIT_S)
        return connections.add(ends[-2]), ends[-1]

    connect.all = connections
    yield connect
    for end in ends:
        end.close()


@pytest.mark.parametrize("has_tls", [False, True], ids=["without TLS", "with TLS"])
def test_oldest_connection_gives_way(connect, monkeypatch, has_tls):
    monkeypatch.setattr(unproved, "KEEPS_PLACE_S", 0.0)
    first, peer = connect()
    _, other = connect()
    if has_tls:
        connect.all.start_tls(first, server_context())
    assert connect.all.make_room()
    assert is_dropped(peer)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    first.socket.close()


def test_connections_keep_their_place_for_a_time(connect, monkeypatch):
    monkeypatch.setattr(unproved, "KEEPS_PLACE_S", 1000.0)
    first, _ = connect()
    assert connect.all.make_room()
    connect()
    assert not connect.all.make_room()
    connect.all.remove(first)
    assert connect.all.make_room()
