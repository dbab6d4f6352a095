from __future__ import annotations

import contextlib
import os
import pickle
import resource
import socket
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from pympipool._util.import_path import package_folder
from pympipool.transport import control_server, local_unix
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.control_server import Connection, HandshakeError, Listener
from pympipool.transport.frames import FRAME_LIMIT, MAGIC, ProtocolError, encode_frame, encode_hello
from transport.connections import (
    LIMIT_S,
    accept_from,
    connect_to,
    needs_root,
    run_as_other_user,
    wait_readable,
)


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def wait_for_frames(connection, count=1):
    frames = []
    while len(frames) < count:
        wait_readable(connection, LIMIT_S)
        frames += connection.receive_available()
    return frames


@pytest.fixture
def trap(tmp_path):
    """A frame that must not be unpickled, and a function that tells if it was."""
    mark = tmp_path / "unpickled"
    return encode_frame(("ready", Trap(mark))), mark.exists


def drain(connection, limit_s=LIMIT_S):
    """Return the frames that arrive until the peer hangs up."""
    frames = []
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        wait_readable(connection, 0.1)
        try:
            frames += connection.receive_available()
        except EOFError:
            return frames
    raise AssertionError(f"the peer does not hang up; so far {frames}")


# ---- handshake ----


def test_handshake_with_the_key_returns_worker_and_rank(listener, unauthenticated):
    peer, connection = unauthenticated
    peer.sendall(encode_hello(bytes.fromhex(listener.key), 4711, 3))
    assert wait_readable(connection)
    assert connection.handshake() == (4711, 3)
    assert (connection.worker, connection.rank, connection.is_relayed) == (4711, 3, False)


def test_hello_tells_if_rank_is_relayed(listener, unauthenticated):
    peer, connection = unauthenticated
    peer.sendall(encode_hello(bytes.fromhex(listener.key), 1, 2, is_relayed=True))
    assert wait_readable(connection)
    assert connection.handshake() == (1, 2)
    assert connection.is_relayed


def test_hello_may_arrive_byte_by_byte(listener, unauthenticated):
    peer, connection = unauthenticated
    hello = encode_hello(bytes.fromhex(listener.key), 1, 0)
    for byte in hello:
        assert connection.handshake() is None
        peer.sendall(bytes([byte]))
        assert wait_readable(connection)
    assert connection.handshake() == (1, 0)


def test_bytes_after_the_hello_are_frames(listener, unauthenticated):
    peer, connection = unauthenticated
    peer.sendall(encode_hello(bytes.fromhex(listener.key), 1, 0) + encode_frame(("ready", 5)))
    assert wait_readable(connection)
    assert connection.handshake() == (1, 0)
    assert connection.receive_available() == [("ready", 5)]


def test_wrong_key_is_refused_and_nothing_unpickled(listener, unauthenticated, trap):
    frame, unpickled = trap
    peer, connection = unauthenticated
    wrong = bytes(b ^ 1 for b in bytes.fromhex(listener.key))
    peer.sendall(encode_hello(wrong, 1, 0) + frame)
    assert wait_readable(connection)
    with pytest.raises(HandshakeError, match="does not know the key"):
        connection.handshake()
    with pytest.raises(HandshakeError):
        connection.receive_available()
    assert not unpickled()


def test_garbage_is_refused_at_its_first_bytes(unauthenticated):
    peer, connection = unauthenticated
    peer.sendall(b"GET / HTTP/1.1\r\n")
    assert wait_readable(connection)
    with pytest.raises(HandshakeError, match="first bytes"):
        connection.handshake()


def test_pickle_instead_of_hello_is_not_unpickled(unauthenticated, trap):
    frame, unpickled = trap
    peer, connection = unauthenticated
    peer.sendall(frame)
    assert wait_readable(connection)
    with pytest.raises(HandshakeError):
        connection.handshake()
    assert not unpickled()


def test_frames_before_the_handshake_are_refused(unauthenticated, trap):
    frame, unpickled = trap
    peer, connection = unauthenticated
    peer.sendall(frame)
    assert wait_readable(connection)
    with pytest.raises(HandshakeError):
        connection.receive_available()
    with pytest.raises(HandshakeError):
        connection.send(("setup", {}))
    assert not unpickled()


def test_hanging_up_during_the_hello_raises(unauthenticated):
    peer, connection = unauthenticated
    peer.sendall(MAGIC)
    peer.close()
    assert wait_readable(connection)
    assert connection.handshake() is None
    with pytest.raises(HandshakeError, match="hung up"):
        connection.handshake()


def test_the_hello_of_another_executor_is_refused(unauthenticated):
    """A hello that was valid for another listener is replayed."""
    peer, connection = unauthenticated
    with_other_key = Listener()
    with_other_key.close()
    peer.sendall(encode_hello(bytes.fromhex(with_other_key.key), 1, 0))
    assert wait_readable(connection)
    with pytest.raises(HandshakeError):
        connection.handshake()


def test_silent_connections_do_not_delay_a_handshake(listener, config):
    peers = [connect_to(listener) for _ in range(50)]
    for half_open in peers[::2]:
        half_open.sendall(MAGIC[:5])
    worker = WorkerControl.connect(config)
    worker.send_hello(config, 0)
    connections = [accept_from(listener) for _ in range(51)]
    answers = [connection.handshake() for connection in connections]
    assert answers == [None] * 50 + [(3, 0)]
    for one in [*peers, *connections, worker]:
        one.close()


@needs_root
def test_a_peer_of_another_user_is_dropped_unread(listener):
    program = (
        "s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect('\\0' + sys.argv[1][1:])\n"
        "try:\n"
        "    s.sendall(bytes.fromhex(sys.argv[2]))\n"
        "    print('dropped' if s.recv(1) == b'' else 'kept')\n"
        "except ConnectionError: print('dropped')"
    )
    hello = encode_hello(bytes.fromhex(listener.key), 1, 0).hex()
    accepted = []

    def accept():
        assert wait_readable(listener)
        accepted.append(listener.accept())

    accepting = threading.Thread(target=accept)
    accepting.start()
    answer = run_as_other_user(program, listener.address, hello)
    accepting.join(LIMIT_S)
    assert answer.stdout.strip() == "dropped", answer
    assert accepted == [None]


# ---- frames ----


def test_fragmented_frames_arrive_in_order(pair):
    connection, worker = pair
    sent = [("ready", {"pid": 1}), ("rank_error", 1, 2, [b"x" * 1000]), ("start_failed", [])]
    stream = b"".join(map(encode_frame, sent))
    received = []
    for position in range(0, len(stream), 7):
        worker._end.socket.sendall(stream[position : position + 7])
        assert wait_readable(connection)
        received += connection.receive_available()
    assert received == sent


def test_last_frames_arrive_before_end_of_connection(pair):
    connection, worker = pair
    worker.send_start_failed([b"why"])
    worker.close()
    assert drain(connection) == [("start_failed", [b"why"], "")]
    with pytest.raises(EOFError, match="rank 1 of worker 3"):
        connection.receive_available()


def test_incomplete_frame_does_not_block(pair):
    connection, worker = pair
    frame = encode_frame(("ready", 1))
    worker._end.socket.sendall(frame[:-1])
    assert wait_readable(connection)
    assert connection.receive_available() == []
    worker._end.socket.sendall(frame[-1:])
    assert wait_readable(connection)
    assert connection.receive_available() == [("ready", 1)]


def test_announced_frame_above_limit_is_refused(pair):
    connection, worker = pair
    worker._end.socket.sendall((FRAME_LIMIT + 1).to_bytes(4, "little"))
    assert wait_readable(connection)
    with pytest.raises(ProtocolError, match=str(FRAME_LIMIT + 1)):
        connection.receive_available()


@pytest.mark.parametrize("body", [b"no pickle", pickle.dumps([1]), pickle.dumps(()), b""])
def test_invalid_frame_body_is_refused(pair, body):
    connection, worker = pair
    worker._end.socket.sendall(len(body).to_bytes(4, "little") + body)
    assert wait_readable(connection)
    with pytest.raises(ProtocolError):
        connection.receive_available()


def test_too_large_settings_are_refused_before_sending(pair):
    connection, worker = pair
    with pytest.raises(ValueError, match=r"at most \d+ can be sent"):
        connection.send(("setup", bytes(FRAME_LIMIT)))
    connection.send(("setup", {"cwd": None}))
    assert worker.receive_setup() == ({"cwd": None}, [])


def test_settings_larger_than_socket_buffer_arrive_with_descriptors(pair, tmp_path):
    connection, worker = pair
    settings = {"init_function": os.urandom(5 << 20)}
    received = []
    receiving = threading.Thread(target=lambda: received.append(worker.receive_setup()))
    receiving.start()
    with open(tmp_path / "one", "w+b") as one, open(tmp_path / "two", "w+b") as two:
        connection.send(("setup", settings), (one.fileno(), two.fileno()))
        receiving.join(LIMIT_S)
        ((arrived, descriptors),) = received
        assert arrived == settings
        assert [os.fstat(descriptor).st_ino for descriptor in descriptors] == [
            os.fstat(file.fileno()).st_ino for file in (one, two)
        ]
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def test_descriptor_comes_with_its_frame(pair, tmp_path):
    connection, worker = pair
    sent = os.open(tmp_path, os.O_RDONLY)
    worker._send(encode_frame(("keep_shared", b"key", [])), (sent,))
    assert wait_for_frames(connection) == [("keep_shared", b"key", [])]
    received = connection.take_descriptor()
    assert connection.take_descriptor() == -1
    assert os.path.sameopenfile(sent, received)
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(sent)


def test_descriptors_without_request_are_closed(pair):
    connection, worker = pair
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(2):
            worker._send(encode_frame(("ready", {})), (theirs.fileno(),))
        with pytest.raises(ProtocolError, match="no frame announces"):
            wait_for_frames(connection, 3)
        connection.close()
        theirs.close()
        assert ours.recv(1) == b""


def test_sending_to_a_stalled_peer_times_out(pair, monkeypatch):
    connection, _ = pair
    monkeypatch.setattr(control_server, "SEND_TIMEOUT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"rank 1 of worker 3 left a frame unread"):
        connection.send(("setup", bytes(10 << 20)))
    assert time.monotonic() - began > 0.2


def test_rest_is_kept_for_stalled_peer(pair):
    connection, worker = pair
    connection.post(("setup", bytes(5_000_000)))
    connection.post(("resource_tracker",))
    left = connection.flush(0.0)
    assert 0 < left < 5_000_100
    assert connection.flush(0.0) == left
    received = []
    reader = threading.Thread(target=lambda: received.extend(worker._end.receive_frame()[0][0] for _ in range(2)))
    reader.start()
    while connection.flush(0.1):
        pass
    reader.join(30)
    assert received == ["setup", "resource_tracker"]


def test_sending_to_a_closed_peer_raises(pair):
    connection, worker = pair
    worker.close()
    with pytest.raises(BrokenPipeError):
        connection.send(("setup", {}))


# ---- listener ----


def test_each_listener_has_its_own_address_and_key(listener):
    other = Listener()
    other.close()
    assert other.address != listener.address
    assert other.key != listener.key
    assert len(bytes.fromhex(listener.key)) == 32


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_linux_listener_creates_no_file(listener):
    assert listener.address.startswith("@")
    assert listener.address in Path("/proc/net/unix").read_text()


def test_other_platforms_use_a_private_temporary_folder(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(local_unix, "HAS_ABSTRACT_SOCKETS", False)
        listener = Listener()
    path = Path(listener.address)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.is_socket()
    peer = connect_to(listener)
    accept_from(listener).close()
    peer.close()
    listener.close()
    assert not path.parent.exists()


def test_long_temporary_folders_are_not_used(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(local_unix, "HAS_ABSTRACT_SOCKETS", False)
        listener = Listener()
    assert listener.address.startswith("/tmp/pympipool-")
    listener.close()


def test_accept_without_a_connection_returns_none(listener):
    assert listener.accept() is None


def test_closed_listener_refuses_connections(listener):
    listener.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        connect_to(listener)


def test_connection_waits_when_descriptors_run_out(listener):
    peer = connect_to(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            listener.accept()
        for descriptor in taken:
            os.close(descriptor)
        taken.clear()
        accept_from(listener).close()
        assert not wait_readable(listener, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
        peer.close()


def test_environment_has_all_variables_a_worker_needs(listener):
    assert listener.environment(5, 2) == {
        "PYMPIPOOL_ADDRESS": listener.address,
        "PYMPIPOOL_KEY": listener.key,
        "PYMPIPOOL_WORKER": "5",
        "PYMPIPOOL_RANKS": "2",
        "PYMPIPOOL_PATH": package_folder(),
    }


def test_descriptors_are_not_inherited_by_programs(listener, pair):
    connection, worker = pair
    assert not any(os.get_inheritable(one.fileno()) for one in (listener, connection, worker))


def test_peer_uid_comes_from_the_kernel(unauthenticated):
    peer, _ = unauthenticated
    assert local_unix.peer_uid(peer) == os.geteuid()


def test_peer_gone_before_accept_fails_the_handshake(listener):
    connect_to(listener).close()
    connection = accept_from(listener)
    with pytest.raises(HandshakeError):
        connection.handshake()
    connection.close()
    assert isinstance(connection._socket, socket.socket)


def test_viewers_get_more_than_a_small_buffer():
    """That of macOS takes 8 KiB."""
    status = b"x" * 50_000
    peer, viewer = socket.socketpair()
    with viewer:
        viewer.settimeout(LIMIT_S)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.setblocking(False)
        connection = Connection(peer, bytes(32))
        connection.answer(status)
        connection.close()
        assert b"".join(iter(lambda: viewer.recv(1 << 16), b"")) == status
