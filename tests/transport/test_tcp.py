"""The link to other hosts, tested on one host: messages, authentication, and the end of either side."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends import relay_process as relay_process_module
from pympipool.backends.registry import BACKENDS
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool import block_pool, supervisor
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.tcp import handshake
from pympipool.transport.tcp.client import TcpControl, UnreachableError, open_connections
from pympipool.transport.tcp.handshake import (
    KEEPALIVE_MAGIC,
    AuthenticationError,
    client_context,
    client_handshake,
    receive_token,
)
from support.calls import echo, fail, hold, pid, square
from support.loopback_tcp import (
    UNREACHABLE_ADDRESS,
    LoopbackTcpBackend,
    LoopbackTcpSpawner,
    LoopbackUnixBackend,
    relay_process,
    run_before_relay,
)
from support.processes import is_alive
from support.scripts import Script
from support.timing import best
from support.waiting import wait_until

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)


def test_ended_relay_explains_killed_workers_only(listener):
    relay = Relay(local_only=True)
    request = LaunchRequest(1, environment=listener.environment(1, 1))
    wait_until(lambda: relay.prepare(request))
    relay.environment(request)
    first = relay.pid
    assert relay.loss_reason(first, 137) is None
    relay.close()
    wait_until(lambda: relay.prepare(request))
    relay.environment(request)
    assert f"(pid {first}), through which it was connected, has ended" in relay.loss_reason(first, 137)
    assert relay.loss_reason(first, 1) is None
    assert relay.loss_reason(relay.pid, 137) is None
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
    peer = socket.create_connection(address, LIMIT_S)
    peer.settimeout(LIMIT_S)
    return peer


def test_relay_drops_rank_that_ends_before_settings(relay, listener):
    """It may wait for them while other ranks of its worker start."""
    (host, port), key = relay
    config = WorkerConfig(UNREACHABLE_ADDRESS, key, 1, 2, "", tcp_addresses=[f"{host}:{port}"])
    control = TcpControl.connect(config)
    control.send_hello(config, 1)
    connections = []
    wait_until(lambda: connections.append(listener.accept()) or connections[-1])
    wait_until(connections[-1].handshake)
    assert connections[-1].is_relayed
    control._keepalive.close()
    wait_until(lambda: has_hung_up(connections[-1]))
    control._stream.close()
    connections[-1].close()


def test_ranks_that_come_all_at_once_connect(listener, monkeypatch):
    """More than may be in the handshake at a time, beside strangers that only wait."""
    run_before_relay("from pympipool.transport.tcp import unproved; unproved.UNPROVED_MAX = 3", monkeypatch)
    with contextlib.closing(Relay(local_only=True)) as relay, ThreadPoolExecutor(12) as threads:
        environment = listener.environment(1, 1)
        request = LaunchRequest(1, environment=environment)
        wait_until(lambda: relay.prepare(request))
        address = relay.environment(request)["PYMPIPOOL_TCP"]
        key = bytes.fromhex(environment["PYMPIPOOL_KEY"])
        config = WorkerConfig(UNREACHABLE_ADDRESS, key, 1, 12, "", tcp_addresses=[address])
        strangers = [socket.create_connection(address.split(":"), LIMIT_S) for _ in range(2)]
        opened = list(threads.map(lambda _: open_connections(config), range(12)))
        keepalives = [keepalive for _, keepalive, _, _ in opened]
        assert select.select(keepalives, [], [], 0.2)[0] == [], "some were hung up"
        for stream, keepalive, _, _ in opened:
            stream.close()
            keepalive.close()
        for stranger in strangers:
            stranger.close()


def has_hung_up(connection):
    try:
        return bool(connection.receive_available())
    except EOFError:
        return True


def is_dropped(peer):
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


# ---- messages ----


def test_relay_on_one_host_opens_no_port(make_tcp_executor, monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackUnixBackend)
    exe = make_tcp_executor()
    shared = exe.share(np.arange(10**6))
    assert exe.submit(len, shared).result() == 10**6
    assert exe.submit(echo, b"x" * 10**6).result() == b"x" * 10**6
    processes = [psutil.Process(exe.submit(pid).result()), relay_process()]
    assert [one.net_connections("inet") for one in processes] == [[], []]


@pytest.mark.parametrize("block_allocation", [True, False])
def test_calls_results_and_exceptions_travel(make_tcp_executor, block_allocation):
    exe = make_tcp_executor(max_workers=2, block_allocation=block_allocation)
    assert list(exe.map(square, range(20))) == [i * i for i in range(20)]
    with pytest.raises(ValueError, match="on purpose"):
        exe.submit(fail, "on purpose").result()


@pytest.mark.parametrize("size", [0, 1, 2**14 - 40, 2**14, 2**16 - 1, 2**16, 2**16 + 1, 10_000_000])
def test_arrays_of_any_size_arrive_writable(make_tcp_executor, size):
    array = np.arange(size, dtype=np.uint8)
    for received in make_tcp_executor().map(echo, [array, [array, array[: size // 2]]]):
        first = received if isinstance(received, np.ndarray) else received[0]
        assert np.array_equal(first, array)
        assert first.flags.writeable


@pytest.mark.mpi
def test_mpi_worker_may_run_on_another_host(make_tcp_executor):
    def ranks():
        from mpi4py import MPI

        return MPI.COMM_WORLD.Get_rank()

    exe = make_tcp_executor(cores_per_worker=2)
    assert exe.submit(ranks).result() == [0, 1]
    with pytest.raises(ValueError, match="everywhere"):
        exe.submit(fail, "everywhere").result()
    assert exe.submit(ranks).result() == [0, 1]


def test_worker_on_masters_host_uses_no_tcp(monkeypatch, make_tcp_executor):
    monkeypatch.setattr(LoopbackTcpSpawner, "hides_address", False)
    exe = make_tcp_executor()
    connections = psutil.Process(exe.submit(pid).result()).net_connections("tcp")
    assert connections == []


def test_local_executor_opens_no_port():
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        worker = psutil.Process(exe.submit(pid).result())
        assert worker.net_connections("inet") == []
        assert [one for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN] == []
        assert not exe.submit(lambda: "ssl" in __import__("sys").modules).result()


@pytest.mark.mpi
def test_ranks_have_time_for_exit_functions(make_tcp_executor, tmp_path, monkeypatch):
    for module in (block_pool, supervisor):
        monkeypatch.setattr(module, "WORKER_EXIT_GRACE_S", LIMIT_S)  # on a busy machine they need more than usually

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


# ---- authentication ----


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"pmpool01" + bytes(40), KEEPALIVE_MAGIC + bytes(16), b"\x16" + bytes(99)],
    ids=["http", "zeros", "a hello", "an unknown token", "a broken handshake"],
)
def test_garbage_closes_the_connection(relay, said):
    address, _ = relay
    with connect(address) as peer:
        peer.sendall(said)
        with contextlib.suppress(OSError):  # the relay has closed it already
            peer.shutdown(socket.SHUT_WR)
        while not is_dropped(peer):
            pass


def test_tls_needs_no_file(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/does/not/exist")  # what a killed relay would leave in a folder
    assert isinstance(handshake.server_context(), ssl.SSLContext)


def test_peer_without_the_key_is_dropped(relay):
    address, _ = relay
    with pytest.raises((AuthenticationError, OSError)):
        client_handshake(connect(address), client_context(), secrets.token_bytes(32))


def test_ordinary_tls_client_is_dropped(relay):
    address, _ = relay
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(address) as peer, pytest.raises(OSError, match=r"(?i)handshake|reset|EOF"):
        context.wrap_socket(peer)


def test_worker_rejects_a_relay_without_the_key(relay):
    """A rank that is led to the wrong relay fails at the proof of the key."""
    (host, port), _ = relay
    config = WorkerConfig(
        UNREACHABLE_ADDRESS, secrets.token_bytes(32), 1, 1, "", tcp_addresses=[f"{host}:{port}"], connect_timeout_s=1
    )
    with pytest.raises(UnreachableError, match=f"{host}:{port}.*firewall"):
        TcpControl.connect(config)


def test_rank_without_keepalive_connection_is_dropped(relay, monkeypatch):
    address, key = relay
    stream, _token = client_handshake(connect(address), client_context(), key)
    stream.set_timeout(2 * LIMIT_S)
    with pytest.raises(EOFError):
        stream.receive()
    stream.close()


def test_unauthenticated_connections_do_not_disturb_calls(make_tcp_executor):
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    address = worker.net_connections("tcp")[0].raddr
    connections = [connect(address) for _ in range(300)]
    assert list(exe.map(square, range(100))) == [i * i for i in range(100)]
    for peer in connections:
        peer.close()


def test_silent_strangers_keep_no_worker_out(make_tcp_executor, monkeypatch):
    """They take all places again and again, and are not dropped for their silence while this test runs."""
    run_before_relay(
        "from pympipool.transport.tcp import handshake, unproved\n"
        f"handshake.HANDSHAKE_TIMEOUT_S = {10 * LIMIT_S}; unproved.UNPROVED_MAX = 4; unproved.KEEPS_PLACE_S = 0.05",
        monkeypatch,
    )
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    address = worker.net_connections("tcp")[0].raddr
    strangers = [connect(address) for _ in range(20)]
    with pytest.raises(WorkerDied):
        exe.submit(os._exit, 1).result(LIMIT_S)
    assert exe.submit(square, 3).result(LIMIT_S) == 9
    for stranger in strangers:
        stranger.close()


def test_command_lines_contain_no_key(make_tcp_executor):
    """Command lines are readable for all users of a host."""
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    key = exe.submit(os.environ.get, "PYMPIPOOL_KEY").result()
    assert key is None
    for process in [worker, relay_process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that an earlier test has left to end
            assert not any("PYMPIPOOL_KEY=" in argument for argument in process.cmdline())


# ---- ends ----


def test_unreachable_master_error_names_address_and_remedy(make_tcp_executor, monkeypatch):
    monkeypatch.setattr(Relay, "environment", lambda *_: _closed_addresses())
    error = make_tcp_executor(connect_timeout=30).submit(square, 1).exception()
    assert isinstance(error, WorkerStartError)
    assert "127.0.0.1:9" in str(error)
    assert "firewall" in str(error)


def _closed_addresses():
    return {"PYMPIPOOL_TCP": "127.0.0.1:9", "PYMPIPOOL_HOST": "here", "PYMPIPOOL_CONNECT_S": "1"}


def test_killed_worker_fails_only_its_call(make_tcp_executor):
    exe = make_tcp_executor()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        exe.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
    assert exe.submit(square, 2).result() == 4


def test_workers_are_replaced_after_relay_is_killed(make_tcp_executor):
    exe = make_tcp_executor()
    first = psutil.Process(exe.submit(pid).result())
    relay_process().kill()
    first.wait(2 * LIMIT_S)
    assert exe.submit(square, 3).result() == 9


def test_relay_that_does_not_answer_is_replaced(make_tcp_executor, make_gate, monkeypatch):
    monkeypatch.setattr(relay_process_module, "ASK_INTERVAL_S", 0.2)
    monkeypatch.setattr(relay_process_module, "CHECK_INTERVAL_S", 0.2)
    exe = make_tcp_executor()
    gate = make_gate()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    relay_process().suspend()
    with monkeypatch.context() as patches:
        patches.setattr(relay_process_module, "ANSWER_TIMEOUT_S", 0.5)  # not for the next one, which may be busy
        with pytest.raises(WorkerDied):
            call.result(LIMIT_S)
    assert exe.submit(square, 3).result(LIMIT_S) == 9


@pytest.mark.parametrize("block_allocation", [True, False])
def test_relay_that_does_not_start_delays_nothing_else(make_tcp_executor, monkeypatch, block_allocation):
    monkeypatch.setattr(relay_process_module, "START_TIMEOUT_S", 10 * LIMIT_S)
    with monkeypatch.context() as patches:
        patches.setattr(
            relay_process_module, "program_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(100)"]
        )
        exe = make_tcp_executor(block_allocation=block_allocation)
        call, other = exe.submit(square, 3), exe.submit(square, 4)
        wait_until(lambda: exe._engine.pool.spawner._relay._process is not None)
        answered = threading.Event()
        exe._engine.pool.loop.call(answered.set)
        assert answered.wait(LIMIT_S)
    silent = exe._engine.pool.spawner._relay.pid
    with monkeypatch.context() as patches:
        patches.setattr(relay_process_module, "START_TIMEOUT_S", 0.5)
        if not block_allocation:
            assert other.cancel()
            with pytest.raises(WorkerStartError, match=r"it has not answered within 0\.5 s"):
                call.result(LIMIT_S)
        wait_until(lambda: not is_alive(silent))  # the next one may take longer
    assert exe.submit(square, 3).result(LIMIT_S) == 9


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import ssl\nssl.SSLContext.set_ciphers = 0", "it ended at once"),
        (
            "import ssl\ndef fail(*_): raise ssl.SSLError(1, 'no ciphers')\nssl.SSLContext.set_ciphers = fail",
            "no ciphers",
        ),
    ],
)
def test_relay_that_cannot_serve_tells_why(make_tcp_executor, monkeypatch, code, reason):
    with monkeypatch.context() as patches:
        run_before_relay(code, patches)
        exe = make_tcp_executor(block_allocation=False)
        with pytest.raises(WorkerStartError, match=f"does not start: {reason}"):
            exe.submit(square, 3).result(LIMIT_S)
    assert exe.submit(square, 3).result(LIMIT_S) == 9


def test_missing_port_is_told(make_tcp_executor, monkeypatch):
    def fail(*_, **__):
        raise OSError("no port")

    with monkeypatch.context() as patches:
        patches.setattr(relay_process_module.socket, "create_server", fail)
        exe = make_tcp_executor(block_allocation=False)
        with pytest.raises(WorkerStartError, match="does not start: no port"):
            exe.submit(square, 3).result(LIMIT_S)
    assert exe.submit(square, 3).result(LIMIT_S) == 9


def test_result_arrives_when_the_relay_stalls(make_tcp_executor, make_gate, monkeypatch):
    monkeypatch.setattr(relay_process_module, "ANSWER_TIMEOUT_S", LIMIT_S)  # not replaced meanwhile
    exe = make_tcp_executor(block_allocation=False)
    gate = make_gate()
    call = exe.submit(hold, gate.path, 1)
    gate.wait_until_begun()
    worker = psutil.Process(exe.info["workers"][0]["pid"])
    relay = relay_process()
    relay.suspend()
    gate.open()
    with contextlib.suppress(psutil.Error):
        worker.wait(LIMIT_S)
    time.sleep(4.0)  # longer than messages may be under way from a relay that answers
    assert not call.done()
    relay.resume()
    assert call.result(LIMIT_S) == 1


def test_waiting_call_can_be_cancelled(make_tcp_executor, make_gate):
    exe = make_tcp_executor()
    gate = make_gate()
    running = exe.submit(hold, gate.path, 1)
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(5)]
    assert all(call.cancel() for call in waiting)
    gate.open()
    assert running.result() == 1


HOLDS_THE_GIL = """
import ctypes, os, sys, threading, time
sys.path.insert(0, {tests!r})
from support.loopback_tcp import LoopbackTcpBackend
from pympipool import Executor
from pympipool.backends.registry import BACKENDS
BACKENDS["tcp"] = LoopbackTcpBackend

def hold_the_gil():
    ctypes.PyDLL(None).sleep(1000)

with Executor(max_workers=1, backend="tcp", block_allocation=True) as exe:
    print("worker", exe.submit(os.getpid).result(), flush=True)
    exe.submit(hold_the_gil)
    time.sleep(1000)
"""


def test_worker_holding_the_gil_ends_with_master(tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    with Script(HOLDS_THE_GIL.format(tests=tests), tmp_path) as script:
        script.wait_for_line("worker")
        script.process.kill()
        assert script.survivors() == []


@pytest.mark.alone
def test_idle_worker_uses_no_cpu_time(make_tcp_executor):
    exe = make_tcp_executor()
    worker = psutil.Process(exe.submit(pid).result())
    processes = [worker, *psutil.Process().children()]

    def used_s():
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(1.0)
        return sum(sum(process.cpu_times()[:2]) for process in processes) - sum(before)

    assert best(used_s, 0.05) < 0.05


@pytest.mark.alone
def test_slow_handshake_times_out(monkeypatch):
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.3)

    def completes():
        """Return True if the token was received completely. On a busy machine all bytes may arrive at once."""
        ours, theirs = socket.socketpair()

        def send_slowly():
            with contextlib.suppress(OSError):  # the other end has been closed
                for byte in KEEPALIVE_MAGIC + bytes(16):
                    theirs.send(bytes([byte]))
                    time.sleep(0.1)  # each single byte in time

        sender = threading.Thread(target=send_slowly)
        sender.start()
        try:
            receive_token(ours)
        except TimeoutError:
            return False
        finally:
            ours.close()
            sender.join()
            theirs.close()
        return True

    assert not best(completes, 1)
