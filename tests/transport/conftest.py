from __future__ import annotations

import pytest

from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.control_server import Listener
from transport.connections import knock, let_in, readable


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def stranger(listener):
    """Somebody of this user who has connected and said nothing, and the master's view of him."""
    stranger = knock(listener)
    connection = let_in(listener)
    yield stranger, connection
    stranger.close()
    connection.close()


@pytest.fixture
def orders(listener):
    """What worker 3 of 2 ranks learns from its environment."""
    return WorkerConfig(listener.address, bytes.fromhex(listener.key), worker=3, ranks=2, launcher="")


@pytest.fixture
def pair(listener, orders):
    """Both ends of a greeted connection: the master's, rank 1's."""
    control = WorkerControl.connect(orders)
    control.send_hello(orders, 1)
    connection = let_in(listener)
    assert readable(connection)
    assert connection.handshake() == (3, 1)
    yield connection, control
    connection.close()
    control.close()
