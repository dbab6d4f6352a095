from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pympipool.transport import control_client, local_unix
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_client import WorkerControl
from pympipool.transport.frames import ProtocolError
from support.waiting import main_thread_is_in, wait_until
from transport.connections import LIMIT_S, OTHER_USER, accept_from, needs_root, wait_readable

KEY = "ab" * 32


@pytest.fixture
def environ():
    return {
        "PYMPIPOOL_ADDRESS": "@somewhere",
        "PYMPIPOOL_KEY": KEY,
        "PYMPIPOOL_WORKER": "7",
        "PYMPIPOOL_RANKS": "2",
        "PYMPIPOOL_PATH": "/usr/lib",
        "HOME": "/home/user",
        "PYMPIPOOL_OF_THE_USER": "1",
    }


def test_config_variables_are_removed_from_the_environment(environ):
    config = WorkerConfig.from_environ(environ)
    assert (config.address, config.key, config.worker, config.ranks) == ("@somewhere", bytes.fromhex(KEY), 7, 2)
    assert config.launcher == ""
    assert environ == {"HOME": "/home/user", "PYMPIPOOL_OF_THE_USER": "1"}


@pytest.mark.parametrize("name", ["PYMPIPOOL_ADDRESS", "PYMPIPOOL_KEY", "PYMPIPOOL_WORKER", "PYMPIPOOL_RANKS"])
def test_a_missing_variable_is_named(environ, name):
    del environ[name]
    with pytest.raises(ValueError, match=f"{name} is not set.*not by hand"):
        WorkerConfig.from_environ(environ)


@pytest.mark.parametrize(("key", "words"), [("ab" * 31, "must have 32"), ("zz" * 32, "hexadecimal")])
def test_an_invalid_key_is_refused(environ, key, words):
    with pytest.raises(ValueError, match=words):
        WorkerConfig.from_environ({**environ, "PYMPIPOOL_KEY": key})


def test_connecting_to_an_ended_master_raises(listener, config):
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        WorkerControl.connect(config)


def test_a_full_queue_is_waited_for_on_macos(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))  # and refuses until it listens
        with monkeypatch.context() as patch:
            patch.setattr(local_unix, "LIMITS_BACKLOG", True)
            patch.setattr(time, "sleep", lambda pause_s: listener.listen())
            local_unix._connect(listener.getsockname()).close()


def test_master_hanging_up_before_setup_raises_eof(pair):
    connection, worker = pair
    connection.close()
    with pytest.raises(EOFError, match="the master hung up"):
        worker.receive_setup()


@pytest.mark.parametrize("frame", [("hello", {}), ("setup",), ("setup", {}, 1)])
def test_frame_other_than_setup_is_refused(pair, frame):
    connection, worker = pair
    connection.send(frame)
    with pytest.raises(ProtocolError):
        worker.receive_setup()


def test_frames_of_a_rank_arrive(pair):
    connection, worker = pair
    worker.send_ready(1)
    worker.send_rank_error(1, 12, [b"a", bytearray(b"b"), memoryview(b"c")])
    worker.send_start_failed([b"d"])
    worker.send_exiting("no more to do")
    (word, said), *others = connection.receive_available()
    assert word == "ready"
    assert said["rank"] == 1
    assert said["host"] == socket.gethostname()
    assert others == [
        ("rank_error", 1, 12, [b"a", b"b", b"c"]),
        ("start_failed", [b"d"], ""),
        ("exiting", "no more to do"),
    ]


def test_too_large_exception_frame_is_refused_before_sending(pair):
    connection, worker = pair
    with pytest.raises(ValueError, match="can be sent"):
        worker.send_rank_error(1, 12, [bytes(65 << 20)])
    worker.send_ready(1)
    assert connection.receive_available()[0][0] == "ready"


class Late(Exception):
    pass


def receive_to_the_end(connection):
    """Receive until the worker hangs up, which raises EOFError."""
    while True:
        assert wait_readable(connection)
        connection.receive_available()


def test_interrupted_request_leaves_no_answer_behind(pair):
    """A signal handler of a call raises while the master has not answered: the next request gets its own answer."""
    connection, worker = pair

    def late(*_):
        raise Late

    def interrupt():
        assert wait_readable(connection)  # the request has been sent
        wait_until(lambda: main_thread_is_in("_take_answer", control_client.__file__))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, late)
    sender = threading.Thread(target=interrupt)
    try:
        sender.start()
        with pytest.raises(Late):
            worker.request_script_object("A")
    finally:
        sender.join()
        signal.signal(signal.SIGALRM, before)
    for name in ("A", "B"):
        connection.send(("script_object", name.encode()))
    assert worker.request_script_object("B") == b"B"


@pytest.mark.parametrize("place", ["before", "within", "after"])
def test_timeout_of_a_handler_ends_the_connection(pair, monkeypatch, place):
    """Whether the request was sent is not known then: the next one must not take its answer."""
    connection, worker = pair
    owner, name = (worker._end, "send") if place == "within" else (worker, "_send")
    send = getattr(owner, name)

    def interrupted(*arguments):
        if place != "before":
            send(*arguments)
        raise TimeoutError("the call takes too long")

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(TimeoutError):
        worker.request_script_object("A")
    with pytest.raises(EOFError):
        receive_to_the_end(connection)


def test_timeout_within_a_frame_ends_the_connection(pair, monkeypatch):
    connection, worker = pair

    def interrupted(*_):
        raise TimeoutError("the call takes too long")

    monkeypatch.setattr(worker._end, "send", interrupted)
    with pytest.raises(TimeoutError):
        worker.send_ready(1)
    with pytest.raises(EOFError):
        receive_to_the_end(connection)


def test_request_that_cannot_be_sent_gets_no_answer(pair):
    connection, worker = pair
    with pytest.raises(OSError, match="Bad file descriptor"):
        worker._request("keep_shared", b"key", [], descriptors=(10**6,))
    connection.send(("script_object", b"B"))
    assert worker.request_script_object("B") == b"B"


def test_torn_answer_ends_the_connection(pair, monkeypatch):
    connection, worker = pair

    def tear():
        raise Late

    monkeypatch.setattr(worker._end, "receive_frame", tear)
    connection.send(("script_object", b"A"))
    with pytest.raises(Late):
        worker.request_script_object("A")
    with pytest.raises(EOFError):  # so nothing takes the rest of the answer for its own
        receive_to_the_end(connection)


@needs_root
def test_nothing_is_sent_to_another_users_listener():
    name = f"pympipool-test-of-another-user-{os.urandom(8).hex()}"
    program = (
        f"import os, socket; os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\n"
        f"s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); s.listen(); print('listening', flush=True)\n"
        "c, _ = s.accept(); print('heard', c.recv(100), flush=True)"
    )
    command = [sys.executable, "-S", "-E", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "listening\n"
        config = WorkerConfig(f"@{name}", bytes.fromhex(KEY), worker=1, ranks=1, launcher="")
        with pytest.raises(PermissionError, match=str(OTHER_USER)):
            WorkerControl.connect(config)
        output, _ = other.communicate(timeout=LIMIT_S)
    assert output == "heard b''\n"


def test_handshake_returns_worker_number_and_rank(listener, config):
    worker = WorkerControl.connect(config)
    worker.send_hello(config, 1)
    connection = accept_from(listener)
    assert connection.handshake() == (3, 1)
    connection.close()
    worker.close()
