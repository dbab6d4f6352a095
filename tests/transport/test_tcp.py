"""The link to other hosts, on one host: what travels, who is let in, and how either side's end is noticed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import ssl
import threading
import time

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.control_server import Listener
from pympipool.transport.tcp import handshake
from pympipool.transport.tcp.client import TcpControl, UnreachableError
from pympipool.transport.tcp.handshake import (
    KEEPALIVE_MAGIC,
    AuthenticationError,
    client_context,
    client_handshake,
    receive_token,
)
from support.calls import echo, fail, hold, pid, square
from support.loopback_tcp import UNREACHABLE_ADDRESS, LoopbackTcpBackend
from support.scripts import Script
from support.timing import best

LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def relay(listener):
    """The address of a relay, and what its workers know."""
    relay = Relay(local_only=True)
    environment = listener.environment(1, 1)
    variables = relay.environment(LaunchRequest(1, environment=environment))
    host, _, port = variables["PYMPIPOOL_TCP"].partition(":")
    yield (host, int(port)), bytes.fromhex(environment["PYMPIPOOL_KEY"])
    relay.close()


@pytest.fixture
def make_tcp_executor():
    executors = []

    def make(**parameters):
        executors.append(Executor(**{"max_workers": 1, "backend": "tcp", "block_allocation": True, **parameters}))
        return executors[-1]

    yield make
    for exe in executors:
        exe.shutdown(cancel_futures=True)


def connect(address):
    stranger = socket.create_connection(address, LIMIT_S)
    stranger.settimeout(LIMIT_S)
    return stranger


def is_dropped(stranger):
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


# ---- what travels ----


@pytest.mark.parametrize("block_allocation", [True, False])
def test_calls_results_and_exceptions_travel(make_tcp_executor, block_allocation):
    exe = make_tcp_executor(max_workers=2, block_allocation=block_allocation)
    assert list(exe.map(square, range(20))) == [i * i for i in range(20)]
    with pytest.raises(ValueError, match="on purpose"):
        exe.submit(fail, "on purpose").result()


@pytest.mark.parametrize("size", [0, 1, 2**14 - 40, 2**14, 2**16 - 1, 2**16, 2**16 + 1, 10_000_000])
def test_arrays_of_any_size_travel_both_ways_and_arrive_writable(make_tcp_executor, size):
    array = np.arange(size, dtype=np.uint8)
    for received in make_tcp_executor().map(echo, [array, [array, array[: size // 2]]]):
        first = received if isinstance(received, np.ndarray) else received[0]
        assert np.array_equal(first, array)
        assert first.flags.writeable


@pytest.mark.mpi
def test_all_ranks_of_a_worker_may_be_on_another_host(make_tcp_executor):
    def ranks():
        from mpi4py import MPI

        return MPI.COMM_WORLD.Get_rank()

    exe = make_tcp_executor(cores_per_worker=2)
    assert exe.submit(ranks).result() == [0, 1]
    with pytest.raises(ValueError, match="everywhere"):
        exe.submit(fail, "everywhere").result()
    assert exe.submit(ranks).result() == [0, 1]


def test_a_worker_on_the_masters_host_does_without_tcp(monkeypatch, make_tcp_executor):
    monkeypatch.setattr("support.loopback_tcp.LoopbackTcpSpawner.start", _start_with_both_addresses)
    exe = make_tcp_executor()
    connections = psutil.Process(exe.submit(pid).result()).net_connections("tcp")
    assert connections == []


def _start_with_both_addresses(self, order):
    environment = {**order.environment, **self._relay.environment(order)}
    return self._spawner.start(LaunchRequest(order.number, order.ranks, environment, order.cwd))


def test_an_executor_of_this_machine_opens_no_port():
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        worker = psutil.Process(exe.submit(pid).result())
        assert worker.net_connections("inet") == []
        assert [one for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN] == []
        assert not exe.submit(lambda: "ssl" in __import__("sys").modules).result()


@pytest.mark.mpi
def test_ranks_have_time_to_do_what_they_do_at_their_exit(make_tcp_executor, tmp_path):
    def leave_a_file_at_exit(folder):
        import atexit

        from mpi4py import MPI

        def leave_a_file():
            time.sleep(0.5)
            (folder / str(MPI.COMM_WORLD.Get_rank())).touch()

        atexit.register(leave_a_file)

    exe = make_tcp_executor(cores_per_worker=2)
    exe.submit(leave_a_file_at_exit, tmp_path).result()
    exe.shutdown()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


# ---- who is let in ----


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"pmpool01" + bytes(40), KEEPALIVE_MAGIC + bytes(16), b"\x16" + bytes(99)],
    ids=["http", "zeros", "a hello", "a lifeline of nobody", "a broken handshake"],
)
def test_garbage_is_dropped(relay, said):
    address, _ = relay
    with connect(address) as stranger:
        stranger.sendall(said)
        with contextlib.suppress(OSError):  # it is dropped already
            stranger.shutdown(socket.SHUT_WR)
        while not is_dropped(stranger):
            pass


def test_a_stranger_without_the_key_is_dropped(relay):
    address, _ = relay
    with pytest.raises((AuthenticationError, OSError)):
        client_handshake(connect(address), client_context(), secrets.token_bytes(32))


def test_a_stranger_who_speaks_ordinary_tls_is_dropped(relay):
    address, _ = relay
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(address) as stranger, pytest.raises(OSError, match=r"(?i)handshake|reset|EOF"):
        context.wrap_socket(stranger)


def test_a_worker_says_nothing_to_a_listener_without_the_key(relay):
    """A rank that is led to the wrong relay gets no further than the proof."""
    (host, port), _ = relay
    orders = WorkerConfig(
        UNREACHABLE_ADDRESS, secrets.token_bytes(32), 1, 1, "", tcp_addresses=[f"{host}:{port}"], connect_timeout_s=1
    )
    with pytest.raises(UnreachableError, match=f"{host}:{port}.*firewall"):
        TcpControl.connect(orders)


def test_a_rank_that_opens_no_lifeline_is_dropped(relay, monkeypatch):
    address, key = relay
    stream, _token = client_handshake(connect(address), client_context(), key)
    stream.set_timeout(2 * LIMIT_S)
    with pytest.raises(EOFError):
        stream.receive()
    stream.close()


def test_strangers_do_not_disturb_calls(make_tcp_executor):
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    address = worker.net_connections("tcp")[0].raddr
    strangers = [connect(address) for _ in range(300)]
    assert list(exe.map(square, range(100))) == [i * i for i in range(100)]
    for stranger in strangers:
        stranger.close()


def test_nobody_can_read_what_travels_or_the_key(make_tcp_executor):
    """The command lines, which everybody can read, hold neither key nor address."""
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    key = exe.submit(os.environ.get, "PYMPIPOOL_KEY").result()
    assert key is None
    for process in [worker, *psutil.Process().children(recursive=True)]:
        assert not any("PYMPIPOOL_KEY=" in argument for argument in process.cmdline())


# ---- ends ----


def test_a_master_that_cannot_be_reached_is_named_with_a_remedy(make_tcp_executor, monkeypatch):
    monkeypatch.setattr(Relay, "environment", lambda *_: _addresses_of_nobody())
    error = make_tcp_executor(connect_timeout=30).submit(square, 1).exception()
    assert isinstance(error, WorkerStartError)
    assert "127.0.0.1:9" in str(error)
    assert "firewall" in str(error)


def _addresses_of_nobody():
    return {"PYMPIPOOL_TCP": "127.0.0.1:9", "PYMPIPOOL_HOST": "here", "PYMPIPOOL_CONNECT_S": "1"}


def test_a_worker_that_is_killed_fails_its_call_only(make_tcp_executor):
    exe = make_tcp_executor()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        exe.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
    assert exe.submit(square, 2).result() == 4


def test_when_the_relay_is_killed_workers_end_and_new_ones_come(make_tcp_executor):
    exe = make_tcp_executor()
    first = psutil.Process(exe.submit(pid).result())
    relays = [
        child for child in psutil.Process().children() if "pympipool.transport.tcp.relay" in " ".join(child.cmdline())
    ]
    for relay in relays:
        relay.kill()
    first.wait(2 * LIMIT_S)
    assert exe.submit(square, 3).result() == 9


def test_a_call_that_was_not_begun_can_be_cancelled(make_tcp_executor, make_gate):
    exe = make_tcp_executor()
    gate = make_gate()
    running = exe.submit(hold, gate.path, 1)
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(5)]
    assert all(call.cancel() for call in waiting)
    gate.open()
    assert running.result() == 1


HOLDS_THE_LOCK = """
import ctypes, os, sys, threading, time
sys.path.insert(0, {tests!r})
from support.loopback_tcp import LoopbackTcpBackend
from pympipool import Executor
from pympipool.backends.registry import BACKENDS
BACKENDS["tcp"] = LoopbackTcpBackend

def hold_the_lock():
    ctypes.PyDLL(None).sleep(1000)

with Executor(max_workers=1, backend="tcp", block_allocation=True) as exe:
    print("worker", exe.submit(os.getpid).result(), flush=True)
    exe.submit(hold_the_lock)
    time.sleep(1000)
"""


def test_a_worker_ends_with_its_master_although_user_code_holds_the_interpreter_lock(tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    with Script(HOLDS_THE_LOCK.format(tests=tests), tmp_path) as script:
        script.wait_for_line("worker")
        script.process.kill()
        assert script.survivors() == []


@pytest.mark.alone
def test_an_idle_worker_uses_no_processor_time(make_tcp_executor):
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    processes = [worker, *psutil.Process().children()]

    def used_s():
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(1.0)
        return sum(sum(process.cpu_times()[:2]) for process in processes) - sum(before)

    assert best(used_s, 0.05) < 0.05


@pytest.mark.alone
def test_a_stranger_who_sends_a_byte_now_and_then_has_no_more_time_than_others(monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.3)

    def had_time():
        """Whether all that he says was heard; on a busy machine it may come all at once."""
        ours, theirs = socket.socketpair()

        def drip():
            with contextlib.suppress(OSError):  # he was dropped
                for byte in KEEPALIVE_MAGIC + bytes(16):
                    theirs.send(bytes([byte]))
                    time.sleep(0.1)  # each in time

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            receive_token(ours)
        except TimeoutError:
            return False
        finally:
            ours.close()
            dripping.join()
            theirs.close()
        return True

    assert not best(had_time, 1)
