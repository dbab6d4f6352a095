from __future__ import annotations

import pytest

from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import LaunchRequest
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from support.unseen_listener import UnseenListener
from support.waiting import wait_until
from transport.connections import accept_from, connect_to, wait_readable


@pytest.fixture
def listener():
    listener = UnseenListener()
    yield listener
    listener.close()


@pytest.fixture
def relay(listener):
    """The address of a relay, and the key that its workers know."""
    relay = Relay(local_only=True)
    environment = listener.environment(1, 1)
    request = LaunchRequest(1, environment=environment)
    wait_until(lambda: relay.prepare(request))
    variables = relay.environment(request)
    host, _, port = variables["PYMPIPOOL_TCP"].partition(":")
    yield (host, int(port)), bytes.fromhex(environment["PYMPIPOOL_KEY"])
    relay.close()


@pytest.fixture
def unauthenticated(listener):
    """A peer of this user that has connected and sent nothing, and the master's end of its connection."""
    peer = connect_to(listener)
    connection = accept_from(listener)
    yield peer, connection
    peer.close()
    connection.close()


@pytest.fixture
def config(listener):
    """The configuration of worker 3, which has 2 ranks."""
    return WorkerConfig(listener.address, bytes.fromhex(listener.key), worker=3, ranks=2, launcher="")


@pytest.fixture
def pair(listener, config):
    """Both ends of a connection after the handshake: the master's, rank 1's."""
    control = WorkerControl.connect(config)
    control.send_hello(config, 1)
    connection = accept_from(listener)
    assert wait_readable(connection)
    assert connection.handshake() == (3, 1)
    yield connection, control
    connection.close()
    control.close()
