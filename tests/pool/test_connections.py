"""Control connections where a thread can wait for few descriptors, as on Windows: strangers keep no worker out."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest

from pympipool._util.service_threads import flush_records
from pympipool.pool import connections, event_loop
from pympipool.pool.connections import ControlConnections
from pympipool.pool.event_loop import EventLoop, HandlerGroup
from pympipool.transport.control_server import Connection
from pympipool.transport.frames import encode_hello
from support.unseen_listener import UnseenListener
from support.waiting import wait_until
from transport.connections import LIMIT_S, connect_to, is_dropped

BESIDE = 2
"""Descriptors that the loop waits for besides connections: its own, and the listener."""


class Master:
    """The connections of an executor whose workers have one rank each.

    Attributes:
        workers: The workers that may connect, by number.
        connected: Those that have.
    """

    def __init__(self):
        self.workers = {}
        self.connected = []
        self.listener = UnseenListener()
        self.loop = EventLoop("tested_loop", at_exit=lambda: None)
        self._connections = ControlConnections(self.listener, self.loop, self)
        self._connections.listen()
        self.loop.start()
        self._peers = []

    def on_connected(self, worker, rank):
        self.connected.append(worker.number)

    def on_hung_up(self, worker, rank):
        pass

    def connect(self):
        self._peers.append(connect_to(self.listener))
        return self._peers[-1]

    def greet(self, peer, number):
        request = SimpleNamespace(ranks=1)
        self.workers[number] = SimpleNamespace(number=number, request=request, connections={}, handlers=HandlerGroup())
        peer.sendall(encode_hello(bytes.fromhex(self.listener.key), number, 0))

    def count(self):
        """Return the number of connections that the loop waits for."""
        counts = queue.SimpleQueue()
        self.loop.call(lambda: counts.put(sum(isinstance(one, Connection) for one in self.loop.watched())))
        return counts.get(timeout=LIMIT_S)

    def close(self):
        self.loop.call(self.loop.stop)
        self.loop.thread.join(LIMIT_S)
        for connection in self.loop.watched():
            connection.close()
        self.loop.close()
        self.listener.close()
        for peer in self._peers:
            peer.close()
        flush_records()


@pytest.fixture
def limit_room(monkeypatch):
    """limit_room(number, keeps_place_s): let the loop wait for so many connections."""

    def limit_room(number, keeps_place_s):
        monkeypatch.setattr(event_loop, "SELECTED_MAX", BESIDE + number)
        monkeypatch.setattr(connections, "KEEPS_PLACE_S", keeps_place_s)
        monkeypatch.setattr(connections, "ACCEPT_PAUSE_S", 0.01)
        monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT_S", 10 * LIMIT_S)

    return limit_room


@pytest.fixture
def master():
    master = Master()
    yield master
    master.close()


def test_silent_strangers_give_way_to_a_worker(limit_room, master, caplog):
    limit_room(4, keeps_place_s=0.02)
    strangers = [master.connect() for _ in range(20)]
    master.greet(master.connect(), 7)
    wait_until(lambda: master.connected == [7])
    assert master.count() <= 4
    assert all(is_dropped(stranger) for stranger in strangers[:10])
    flush_records()
    assert caplog.text.count("other programs connect to the port") == 1


def test_strangers_wait_while_the_others_have_time(limit_room, master):
    limit_room(2, keeps_place_s=10 * LIMIT_S)
    first, second = master.connect(), master.connect()
    wait_until(lambda: master.count() == 2)
    waiting = [master.connect() for _ in range(3)]
    master.greet(first, 1)
    master.greet(second, 2)
    wait_until(lambda: master.connected == [1, 2])
    master.greet(waiting[0], 3)
    assert master.count() == 2
    assert master.connected == [1, 2]
    first.close()
    wait_until(lambda: master.connected == [1, 2, 3])


def test_hello_that_has_come_gives_way_to_nobody(limit_room, master):
    limit_room(1, keeps_place_s=0.0)
    worker = master.connect()
    wait_until(lambda: master.count() == 1)
    is_held, may_go_on = threading.Event(), threading.Event()
    master.loop.call(lambda: (is_held.set(), may_go_on.wait(LIMIT_S)))
    assert is_held.wait(LIMIT_S)
    stranger = master.connect()  # the loop sees it together with the hello, and before
    master.greet(worker, 7)
    may_go_on.set()
    wait_until(lambda: master.connected == [7])
    worker.close()
    wait_until(lambda: master.count() == 1)
    stranger.close()
    wait_until(lambda: master.count() == 0)


def test_deadline_of_a_dropped_connection_is_cancelled(limit_room, master):
    limit_room(1, keeps_place_s=0.0)
    for _ in range(50):
        master.connect()
    wait_until(lambda: master._connections._has_warned)
    stranger = master.connect()
    master.greet(stranger, 7)
    wait_until(lambda: master.connected == [7])
    assert sum(timer.function is not None for _, _, timer in master.loop._timers) <= 1
