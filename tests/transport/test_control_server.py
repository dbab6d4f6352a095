from __future__ import annotations

import contextlib
import os
import pickle
import resource
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from pympipool.transport import control_server, frames
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.control_server import HandshakeError, Listener
from pympipool.transport.frames import FRAME_LIMIT, ProtocolError, encode_frame, encode_hello
from transport.connections import LIMIT_S, knock, let_in, needs_root, readable, run_as_other_user, was_dropped


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def trap(tmp_path):
    """A frame that must not be unpickled, and whether it was."""
    mark = tmp_path / "unpickled"
    return encode_frame(("ready", Trap(mark))), mark.exists


def drain(connection, limit_s=LIMIT_S):
    """Frames until the peer hangs up."""
    frames = []
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        readable(connection, 0.1)
        try:
            frames += connection.receive_available()
        except EOFError:
            return frames
    raise AssertionError(f"the peer does not hang up; so far {frames}")


# ---- greeting ----


def test_a_worker_with_the_key_is_greeted_as_who_it_is(listener, stranger):
    peer, connection = stranger
    peer.sendall(encode_hello(bytes.fromhex(listener.key), 4711, 3))
    assert readable(connection)
    assert connection.handshake() == (4711, 3)
    assert (connection.worker, connection.rank) == (4711, 3)


def test_a_hello_may_come_byte_by_byte(listener, stranger):
    peer, connection = stranger
    hello = encode_hello(bytes.fromhex(listener.key), 1, 0)
    for byte in hello:
        assert connection.handshake() is None
        peer.sendall(bytes([byte]))
        assert readable(connection)
    assert connection.handshake() == (1, 0)


def test_what_follows_the_hello_is_left_for_the_frames(listener, stranger):
    peer, connection = stranger
    peer.sendall(encode_hello(bytes.fromhex(listener.key), 1, 0) + encode_frame(("ready", 5)))
    assert readable(connection)
    assert connection.handshake() == (1, 0)
    assert connection.receive_available() == [("ready", 5)]


def test_a_wrong_key_is_refused_and_nothing_after_it_unpickled(listener, stranger, trap):
    frame, unpickled = trap
    peer, connection = stranger
    wrong = bytes(b ^ 1 for b in bytes.fromhex(listener.key))
    peer.sendall(encode_hello(wrong, 1, 0) + frame)
    assert readable(connection)
    with pytest.raises(HandshakeError, match="does not know the key"):
        connection.handshake()
    with pytest.raises(HandshakeError):
        connection.receive_available()
    assert not unpickled()


def test_garbage_is_refused_at_its_first_bytes(stranger):
    peer, connection = stranger
    peer.sendall(b"GET / HTTP/1.1\r\n")
    assert readable(connection)
    with pytest.raises(HandshakeError, match="first bytes"):
        connection.handshake()


def test_a_pickle_in_place_of_a_hello_is_not_unpickled(stranger, trap):
    frame, unpickled = trap
    peer, connection = stranger
    peer.sendall(frame)
    assert readable(connection)
    with pytest.raises(HandshakeError):
        connection.handshake()
    assert not unpickled()


def test_frames_before_the_greeting_are_refused_in_both_directions(stranger, trap):
    frame, unpickled = trap
    peer, connection = stranger
    peer.sendall(frame)
    assert readable(connection)
    with pytest.raises(HandshakeError):
        connection.receive_available()
    with pytest.raises(HandshakeError):
        connection.send(("setup", {}))
    assert not unpickled()


def test_hanging_up_in_the_middle_of_a_hello_is_an_error(stranger):
    peer, connection = stranger
    peer.sendall(frames.MAGIC)
    peer.close()
    assert readable(connection)
    assert connection.handshake() is None
    with pytest.raises(HandshakeError, match="hung up"):
        connection.handshake()


def test_the_hello_of_another_executor_is_refused(stranger):
    """A hello that was right elsewhere, replayed."""
    peer, connection = stranger
    with_other_key = Listener()
    with_other_key.close()
    peer.sendall(encode_hello(bytes.fromhex(with_other_key.key), 1, 0))
    assert readable(connection)
    with pytest.raises(HandshakeError):
        connection.handshake()


def test_silent_and_half_open_strangers_hold_up_nobody(listener, orders):
    strangers = [knock(listener) for _ in range(50)]
    for half_open in strangers[::2]:
        half_open.sendall(frames.MAGIC[:5])
    worker = WorkerControl.connect(orders)
    worker.send_hello(orders, 0)
    connections = [let_in(listener) for _ in range(51)]
    greetings = [connection.handshake() for connection in connections]
    assert greetings == [None] * 50 + [(3, 0)]
    for one in [*strangers, *connections, worker]:
        one.close()


@needs_root
def test_a_peer_of_another_user_is_dropped_unread(listener):
    knocking = (
        "s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect('\\0' + sys.argv[1][1:])\n"
        "try:\n"
        "    s.sendall(bytes.fromhex(sys.argv[2]))\n"
        "    print('dropped' if s.recv(1) == b'' else 'kept')\n"
        "except ConnectionError: print('dropped')"
    )
    hello = encode_hello(bytes.fromhex(listener.key), 1, 0).hex()
    accepted = []

    def accept():
        assert readable(listener)
        accepted.append(listener.accept())

    accepting = threading.Thread(target=accept)
    accepting.start()
    answer = run_as_other_user(knocking, listener.address, hello)
    accepting.join(LIMIT_S)
    assert answer.stdout.strip() == "dropped", answer
    assert accepted == [None]


# ---- frames ----


def test_frames_arrive_one_by_one_whatever_the_pieces(pair):
    connection, worker = pair
    sent = [("ready", {"pid": 1}), ("rank_error", 1, 2, [b"x" * 1000]), ("start_failed", [])]
    stream = b"".join(map(encode_frame, sent))
    received = []
    for position in range(0, len(stream), 7):
        worker._socket.sendall(stream[position : position + 7])
        assert readable(connection)
        received += connection.receive_available()
    assert received == sent


def test_the_last_frames_arrive_before_the_news_of_the_end(pair):
    connection, worker = pair
    worker.send_start_failed([b"why"])
    worker.close()
    assert drain(connection) == [("start_failed", [b"why"])]
    with pytest.raises(EOFError, match="rank 1 of worker 3"):
        connection.receive_available()


def test_a_frame_that_is_half_there_is_waited_for_without_blocking(pair):
    connection, worker = pair
    frame = encode_frame(("ready", 1))
    worker._socket.sendall(frame[:-1])
    assert readable(connection)
    assert connection.receive_available() == []
    worker._socket.sendall(frame[-1:])
    assert readable(connection)
    assert connection.receive_available() == [("ready", 1)]


def test_an_announcement_of_too_large_a_frame_is_refused_at_once(pair):
    connection, worker = pair
    worker._socket.sendall((FRAME_LIMIT + 1).to_bytes(4, "little"))
    assert readable(connection)
    with pytest.raises(ProtocolError, match=str(FRAME_LIMIT + 1)):
        connection.receive_available()


@pytest.mark.parametrize("body", [b"no pickle", pickle.dumps([1]), pickle.dumps(()), b""])
def test_what_is_no_frame_is_refused(pair, body):
    connection, worker = pair
    worker._socket.sendall(len(body).to_bytes(4, "little") + body)
    assert readable(connection)
    with pytest.raises(ProtocolError):
        connection.receive_available()


def test_too_large_settings_are_refused_before_a_byte_is_sent(pair):
    connection, worker = pair
    with pytest.raises(ValueError, match=r"at most \d+ can be sent"):
        connection.send(("setup", bytes(FRAME_LIMIT)))
    connection.send(("setup", {"cwd": None}))
    assert worker.receive_setup() == ({"cwd": None}, [])


def test_settings_larger_than_the_sockets_buffer_arrive_whole_with_their_descriptors(pair, tmp_path):
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


def test_a_peer_that_does_not_read_is_given_up_after_a_while(pair, monkeypatch):
    connection, _ = pair
    monkeypatch.setattr(control_server, "SEND_TIMEOUT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"rank 1 of worker 3 left a frame unread"):
        connection.send(("setup", bytes(10 << 20)))
    assert time.monotonic() - began > 0.2


def test_sending_to_a_peer_that_is_gone_is_an_error(pair):
    connection, worker = pair
    worker.close()
    with pytest.raises(BrokenPipeError):
        connection.send(("setup", {}))


# ---- listener ----


def test_addresses_and_keys_are_made_afresh(listener):
    other = Listener()
    other.close()
    assert other.address != listener.address
    assert other.key != listener.key
    assert len(bytes.fromhex(listener.key)) == 32


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are of Linux")
def test_on_linux_no_file_is_made(listener):
    assert listener.address.startswith("@")
    assert listener.address in Path("/proc/net/unix").read_text()


def test_elsewhere_the_socket_lies_in_a_folder_for_this_user_only_and_goes_with_it(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        listener = Listener()
    path = Path(listener.address)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.is_socket()
    stranger = knock(listener)
    let_in(listener).close()
    stranger.close()
    listener.close()
    assert not path.parent.exists()


def test_nobody_waiting_is_none(listener):
    assert listener.accept() is None


def test_a_closed_listener_lets_nobody_in(listener):
    listener.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        knock(listener)


def test_without_free_descriptors_whoever_knocks_is_dropped_and_the_listener_not_kept_busy(listener):
    stranger = knock(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        assert listener.accept() is None
        for descriptor in taken:
            os.close(descriptor)
        taken.clear()
        assert was_dropped(stranger)
        assert not readable(listener, 0)
        later = knock(listener)
        let_in(listener).close()
        later.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
        stranger.close()


def test_the_environment_tells_a_worker_all_it_needs(listener, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "library").mkdir()
    monkeypatch.setattr(sys, "path", ["", "library", "/usr/lib", "__hook__", "/usr/lib"])
    assert listener.environment(5, 2) == {
        "PYMPIPOOL_ADDRESS": listener.address,
        "PYMPIPOOL_KEY": listener.key,
        "PYMPIPOOL_WORKER": "5",
        "PYMPIPOOL_RANKS": "2",
        "PYMPIPOOL_PATH": f"{tmp_path}:{tmp_path}/library:/usr/lib:__hook__",
    }


def test_connections_are_not_inherited_by_programs_that_the_user_starts(listener, pair):
    connection, worker = pair
    assert not any(os.get_inheritable(one.fileno()) for one in (listener, connection, worker))


def test_the_user_of_the_peer_is_told_by_the_kernel(stranger):
    peer, _ = stranger
    assert frames.peer_uid(peer) == os.geteuid()


def test_no_end_of_the_world_when_the_peer_left_before_it_was_accepted(listener):
    knock(listener).close()
    connection = let_in(listener)
    with pytest.raises(HandshakeError):
        connection.handshake()
    connection.close()
    assert isinstance(connection._socket, socket.socket)
