"""No other user can connect to an executor, or read its data."""

import os
import queue
import socket
import stat
import time
from pathlib import Path

import psutil
import pytest

from pympipool import Executor
from pympipool.transport.control_server import Connection
from support.waiting import LIMIT_S, wait_until

LAUNCHERS = ("mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "mpirun", "prterun", "prted", "orted")
"""Programs of MPI that listen on a port of their own: MPICH's mpiexec for its proxies. Ranks inherit the socket."""


def pid():
    return os.getpid()


def listening_ports(process):
    return {
        connection.laddr.port
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


def environment():
    return dict(os.environ)


@pytest.fixture(params=["block", "mpi", "single"])
def busy(request, tmp_path):
    """Yield an executor with a worker, and the processes that belong to it."""
    parameters = {
        "block": {"max_workers": 1, "block_allocation": True},
        "mpi": {"max_cores": 2, "cores_per_worker": 2, "block_allocation": True},
        "single": {"max_cores": 1},
    }[request.param]
    gate = tmp_path / "gate"
    with Executor(**parameters) as exe:
        call = exe.submit(hold, gate)
        while not call.running():
            time.sleep(0.01)
        yield exe, [psutil.Process(), *psutil.Process().children(recursive=True)]
        gate.touch()


def hold(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def test_no_process_listens_on_a_network_port(busy):
    _, processes = busy
    ports = {process: listening_ports(process) for process in processes}
    of_launchers = {port for process in processes if process.name() in LAUNCHERS for port in ports[process]}
    assert {port for process in processes for port in ports[process]} - of_launchers == set()


def test_command_lines_contain_no_secret(busy):
    exe, processes = busy
    key = exe._engine.pool.supervisor.listener.key
    for process in processes:
        assert key not in " ".join(process.cmdline())


def test_calls_do_not_see_the_workers_variables(make_executor):
    exe = make_executor()
    seen = exe.submit(environment).result()
    assert [name for name in seen if name.startswith("PYMPIPOOL") and name not in os.environ] == []


def test_segments_are_unnamed_and_private_to_the_user(busy):
    _, processes = busy
    for process in processes:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target, status = os.readlink(descriptor), descriptor.stat()
            except OSError:
                continue
            if "pympipool" in target and not target.startswith("/"):
                assert "(deleted)" in target
                assert status.st_uid == os.geteuid()
            if target.startswith("/memfd:pympipool"):
                assert "(deleted)" in target
                assert not stat.S_IMODE(status.st_mode) & 0o077


def test_unauthenticated_connections_disturb_no_call(make_block_executor):
    exe = make_block_executor()
    exe.submit(pid).result()
    address = exe._engine.pool.supervisor.listener.address
    address = f"\0{address[1:]}" if address.startswith("@") else address
    strangers = []
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", b"pmpool01", b"pmpool01" + bytes(40), os.urandom(1 << 16)):
        for _ in range(20):
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(address)
            try:
                stranger.sendall(greeting)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the master has closed the connection already
            strangers.append(stranger)
        assert [exe.submit(pow, i, 2).result() for i in range(100)] == [i * i for i in range(100)]
    for stranger in strangers:
        stranger.close()
    assert exe.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("forked", [False, True], ids=["alone", "with_a_forked_child"])
def test_shutdown_closes_unauthenticated_connections(make_block_executor, forked):
    """Such a connection may be that of a worker that has just started. A forked child must not keep it open either."""
    exe = make_block_executor()
    exe.submit(pid).result()
    address = exe._engine.pool.supervisor.listener.address
    release, hold = os.pipe()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(LIMIT_S)
        stranger.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        wait_until(lambda: connections_of(exe) == 2)  # it, and the worker
        child = os.fork() if forked else None
        if child == 0:
            os.close(hold)
            os.read(release, 1)
            os._exit(0)
        exe.shutdown()
        try:
            assert stranger.recv(1) == b""
        finally:
            os.close(hold)
            os.close(release)
            if child is not None:
                os.waitpid(child, 0)


def connections_of(exe):
    """Return how many control connections an executor has accepted."""
    loop, counts = exe._engine.pool.loop, queue.SimpleQueue()
    loop.call(lambda: counts.put(sum(isinstance(one, Connection) for one in loop.watched())))
    return counts.get(timeout=LIMIT_S)


def test_half_open_connections_do_not_block_worker_replacement(make_block_executor):
    exe = make_block_executor()
    victim = psutil.Process(exe.submit(pid).result())
    address = exe._engine.pool.supervisor.listener.address
    address = f"\0{address[1:]}" if address.startswith("@") else address
    strangers = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for stranger in strangers:
        stranger.connect(address)
        stranger.sendall(b"pmp")
    victim.kill()
    assert exe.submit(pid).result(timeout=60) != victim.pid
    for stranger in strangers:
        stranger.close()
