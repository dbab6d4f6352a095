"""Calls that run are ended: with all workers of an executor, or one by one."""

import os
import signal
from concurrent import futures

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import hold, square
from support.processes import still_alive

pytestmark = pytest.mark.anywhere

ENDINGS = {
    "kill_workers": lambda exe: exe.kill_workers(),
    "terminate_workers": lambda exe: exe.terminate_workers(),
    "shutdown": lambda exe: exe.shutdown(kill_workers=True),
    "without waiting": lambda exe: exe.shutdown(wait=False, kill_workers=True),
}


def hold_until_terminated(gate, path):
    """Wait at the gate; SIGTERM writes a file and ends the process."""

    def tidy_up(*_):
        with open(path, "w") as file:
            file.write("tidied up")
        os._exit(3)

    signal.signal(signal.SIGTERM, tidy_up)
    hold(gate)


def ignore_termination(gate):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold(gate)


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_running_and_waiting_calls_end(make_executor, gate, end):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = [exe.submit(square, number) for number in range(20)]
    dependent = exe.submit(square, running)
    end(exe)
    with pytest.raises(WorkerDied, match=r"while it ran hold\(\): its executor has ended it"):
        running.result(60)
    assert all(call.cancelled() for call in [*waiting, dependent])
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(square, 2)
    end(exe)  # does nothing more


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_idle_executor_ends(make_executor, end):
    exe = make_executor()
    assert exe.submit(square, 3).result() == 9
    end(exe)
    exe.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(square, 2)


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_no_process_is_left_after_kill_workers(make_executor, gate, ranks):
    exe = make_executor(cores_per_worker=ranks)
    exe.submit(hold, gate.path)
    gate.wait_until_begun(ranks)
    processes = psutil.Process().children(recursive=True)
    rank_0 = psutil.Process(exe.info["workers"][0]["pid"])
    assert rank_0 in processes
    exe.kill_workers()
    assert still_alive([rank_0]) == []


@pytest.mark.only_at("this machine", reason="other hosts may not see the file")
def test_terminated_call_tidies_up(make_executor, gate, tmp_path):
    exe = make_executor()
    call = exe.submit(hold_until_terminated, gate.path, tmp_path / "file")
    gate.wait_until_begun()
    exe.terminate_workers()
    assert isinstance(call.exception(), WorkerDied)
    assert (tmp_path / "file").read_text() == "tidied up"


@pytest.mark.only_at("this machine", reason="it takes 5 s")
def test_worker_that_ignores_termination_is_killed(make_block_executor, gate, monkeypatch):
    monkeypatch.setattr("pympipool.executor.TERMINATION_GRACE_S", 0.2)
    exe = make_block_executor()
    call = exe.submit(ignore_termination, gate.path)
    gate.wait_until_begun()
    exe.terminate_workers()
    assert isinstance(call.exception(), WorkerDied)


def test_map_ends_with_its_workers(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold, [gate.path] * 3)
    gate.wait_until_begun()
    exe.kill_workers()
    with pytest.raises((WorkerDied, futures.CancelledError)):
        list(results)


def test_executor_without_workers_closes():
    with Executor(backend="serial") as exe:
        exe.kill_workers()
        with pytest.raises(RuntimeError, match="after shutdown"):
            exe.submit(square, 2)
    with Executor(backend="serial") as exe:
        exe.terminate_workers()
        exe.shutdown(kill_workers=True)
