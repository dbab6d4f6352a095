"""Viewers of the same user see what executors do; nobody else does, and the script goes on."""

import os
import socket
import time

import pytest

from pympipool import Executor, share
from pympipool.diagnostics.live import report, scripts
from pympipool.diagnostics.live.scripts import find_scripts
from pympipool.transport.frames import VIEWER_MAGIC
from support.unseen_listener import UnseenListener
from support.waiting import LIMIT_S, wait_until


def nap(path):
    while not path.exists():
        time.sleep(0.01)


def seen():
    """Return what viewers see of this process: the status of each executor."""
    return [status for script in find_scripts(os.getpid()) for status in script.executors]


@pytest.mark.parametrize("block_allocation", [True, False])
def test_viewer_sees_calls_workers_and_their_functions(tmp_path, block_allocation):
    with Executor(max_workers=2, block_allocation=block_allocation, backend="mpi") as exe:
        exe.submit(divmod, 1, 0).exception()
        futures = [exe.submit(nap, tmp_path / "end") for _ in range(3)]
        wait_until(lambda: sum(future.running() for future in futures) == 2, LIMIT_S)
        wait_until(lambda: all(worker["seconds"] > 0 for worker in seen()[0]["workers"]))  # it is rounded
        (status,) = seen()
        (tmp_path / "end").touch()
    assert status["pid"] == os.getpid()
    assert status["executor"]["block_allocation"] is block_allocation
    assert [status["calls"][name] for name in ("running", "waiting", "failed")] == [2, 1, 1]
    assert [worker["function"] for worker in status["workers"]] == ["nap", "nap"]
    assert all(worker["pid"] != os.getpid() for worker in status["workers"])


def test_idle_workers_run_no_function():
    data = share(b"x" * 100_000)
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        assert exe.submit(len, data).result() == 100_000
        (status,) = seen()
    assert [(worker["state"], worker["function"], worker["calls"]) for worker in status["workers"]] == [
        ("idle", None, 1)
    ]
    assert "1 shared object" in status["shared"]
    assert seen() == []


def test_executors_of_one_process_are_one_script():
    with Executor(max_workers=1, backend="mpi"), Executor(max_workers=2, backend="mpi"):
        (script,) = find_scripts(os.getpid())
    assert sorted(status["executor"]["max_workers"] for status in script.executors) == [1, 2]


def test_report_lists_the_longest_calls_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "WORKERS_MAX", 1)
    with Executor(max_workers=2, block_allocation=True, backend="mpi") as exe:
        exe.submit(abs, 1).result()
        running = exe.submit(nap, tmp_path / "end")
        wait_until(running.running, LIMIT_S)
        wait_until(lambda: seen()[0]["worker_count"] == 2, LIMIT_S)
        (status,) = seen()
        (tmp_path / "end").touch()
    assert [worker["function"] for worker in status["workers"]] == ["nap"]


def test_viewers_that_do_not_read_stop_no_call():
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        viewers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for viewer in viewers:
            viewer.connect(address_of(exe))
            viewer.sendall(VIEWER_MAGIC)
        assert exe.submit(abs, -1).result(LIMIT_S) == 1
        assert len(seen()) == 1
        for viewer in viewers:
            viewer.close()


def address_of(exe):
    address = exe._engine.pool.supervisor.listener.address
    return f"\0{address[1:]}" if address.startswith("@") else address


def test_peer_of_another_user_is_not_read(monkeypatch):
    """A socket with such a name may be of anybody: what it would answer is not looked at."""
    with Executor(max_workers=1, backend="mpi"):
        monkeypatch.setattr(scripts, "peer_uid", lambda _: os.geteuid() + 1)
        assert seen() == []


def test_what_is_no_status_is_left_out(monkeypatch):
    monkeypatch.setattr(scripts, "PATIENT_LIMIT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"\0pympipool-{os.urandom(16).hex()}"
        listener.bind(name)
        listener.listen()
        assert name in scripts._addresses()
        assert find_scripts(os.getpid()) == []  # it does not answer


def test_other_processes_are_not_asked(monkeypatch):
    with Executor(max_workers=1, backend="mpi"):
        monkeypatch.setattr(scripts, "peer_pid", lambda _: os.getppid())
        assert seen() == []
        monkeypatch.setattr(scripts, "peer_pid", lambda _: None)  # the system does not tell it
        wait_until(lambda: len(seen()) == 1)


def test_listeners_of_other_tests_are_not_asked():
    listener = UnseenListener()
    assert f"\0{listener.address.removeprefix('@')}" not in scripts._addresses()
    listener.close()
