"""The control connection on one host: who does not know the key is not answered, and nothing of it is unpickled."""

import os
import select
import socket
import threading

import pytest

from pympipool._util.platform import IS_WINDOWS
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.control_server import HandshakeError, Listener
from pympipool.transport.frames import VIEWER_MAGIC, encode_frame

LIMIT_S = 30

of_windows = pytest.mark.skipif(
    not IS_WINDOWS, reason="on other systems the kernel tells whose process a peer is: make test-windows"
)


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


def in_thread(function):
    """Run a function in a thread; return a function that waits for what it has returned or raised."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except (OSError, EOFError) as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait():
        thread.join(LIMIT_S)
        return outcome[0]

    return wait


def accept(listener):
    assert select.select([listener], [], [], LIMIT_S)[0]
    return listener.accept()


def handshake(connection):
    while (hello := connection.handshake()) is None:
        assert select.select([connection], [], [], LIMIT_S)[0]
    return hello


def start_worker(listener, **changes):
    config = WorkerConfig.from_environ({**listener.environment(7, 1), **changes})

    def work():
        control = WorkerControl.connect(config)
        try:
            control.send_hello(config, 0)
            return control.receive_setup()
        finally:
            control.close()

    return in_thread(work)


def test_both_sides_prove_the_key(listener):
    outcome = start_worker(listener)
    connection = accept(listener)
    assert handshake(connection) == (7, 0)
    connection.send(("setup", {"cwd": None}))
    assert outcome() == ({"cwd": None}, [])
    connection.close()


def test_worker_with_another_key_is_refused(listener):
    outcome = start_worker(listener, PYMPIPOOL_KEY="ab" * 32)
    connection = accept(listener)
    with pytest.raises(HandshakeError, match="does not know the key"):
        handshake(connection)
    connection.close()
    assert isinstance(outcome(), (EOFError, OSError))


def boom():
    raise AssertionError("was unpickled")


class Bomb:
    def __reduce__(self):
        return boom, ()


@of_windows
def test_nothing_of_a_false_master_is_unpickled(listener):
    with socket.create_server(("127.0.0.1", 0)) as false:
        outcome = start_worker(listener, PYMPIPOOL_ADDRESS=f"{false.getsockname()[1]}/{os.getpid()}")
        peer, _ = false.accept()
        with peer:
            peer.sendall(bytes(32))
            assert peer.recv(1000)
            peer.sendall(bytes(32) + encode_frame(("setup", Bomb())))
            assert isinstance(outcome(), PermissionError)


@of_windows
def test_answer_to_one_challenge_opens_nothing_else(listener):
    """What a worker answers to one challenge does not open another connection."""
    with socket.create_server(("127.0.0.1", 0)) as false:
        outcome = start_worker(listener, PYMPIPOOL_ADDRESS=f"{false.getsockname()[1]}/{os.getpid()}")
        peer, _ = false.accept()
        peer.sendall(bytes(32))
        hello = peer.recv(1000)
        peer.close()
        assert isinstance(outcome(), (EOFError, OSError))
    port = int(listener.address.partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(hello)
        connection = accept(listener)
        with pytest.raises(HandshakeError, match="does not know the key"):
            handshake(connection)
        connection.close()


@of_windows
def test_worker_that_was_dropped_connects_again(listener):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        busy.settimeout(LIMIT_S)
        outcome = start_worker(listener, PYMPIPOOL_ADDRESS=f"{busy.getsockname()[1]}/{os.getpid()}")
        busy.accept()[0].close()
        peer, _ = busy.accept()
        with peer:
            peer.sendall(bytes(32))
            assert peer.recv(1000)
        assert isinstance(outcome(), (EOFError, OSError))


@of_windows
def test_worker_gives_up_when_nobody_listens(listener, monkeypatch):
    from pympipool.transport import local_windows

    monkeypatch.setattr(local_windows, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"{closed.getsockname()[1]}/{os.getpid()}"
    assert isinstance(start_worker(listener, PYMPIPOOL_ADDRESS=address)(), ConnectionRefusedError)


@of_windows
def test_strangers_keep_no_worker_out(make):
    """More of them than a thread can wait for neither end the executor nor keep its next worker waiting for long."""
    exe = make(max_workers=1)
    assert exe.submit(pow, 2, 3).result(LIMIT_S) == 8
    port = int(exe._engine.pool.supervisor.listener.address.partition("/")[0])
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(560)]
    exe.submit(os._exit, 1).exception(2 * LIMIT_S)
    assert exe.submit(pow, 2, 5).result(2 * LIMIT_S) == 32
    for stranger in strangers:
        stranger.close()


@of_windows
def test_viewers_that_know_no_key_get_nothing(listener):
    port = int(listener.address.partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as viewer:
        viewer.sendall(VIEWER_MAGIC)
        connection = accept(listener)
        with pytest.raises(HandshakeError, match="first bytes"):
            handshake(connection)
        connection.close()
