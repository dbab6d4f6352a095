"""Calls that run are ended: with all workers of an executor, or one by one."""

import os
import random
import signal
import time
from concurrent import futures

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import echo, hold, square
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


# ---- one call ----


def add_line(path, line):
    """Append a line to a file, so that calls can be counted that have run."""
    with open(path, "a") as file:
        file.write(f"{line}\n")
    return line


def add_line_and_hold(path, gate):
    add_line(path, "begun")
    hold(gate)


def loaded():
    return {"y": 1}


def begun(exe, gate, ranks=1):
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun(ranks)
    return call


def test_forced_cancel_ends_a_running_call(make_executor, gate):
    exe = make_executor()
    call = begun(exe, gate)
    dependent = exe.submit(square, call)
    told = []
    call.add_done_callback(told.append)
    assert not call.cancel()
    assert call.cancel(force=True)
    assert (call.cancelled(), call.done(), call.running(), told) == (True, True, False, [call])
    with pytest.raises(futures.CancelledError):
        call.result()
    with pytest.raises(futures.CancelledError):
        dependent.result()
    assert call.cancel(force=True)
    assert exe.submit(square, 3).result() == 9


def test_forced_cancel_of_others_is_plain(make_executor, gate):
    exe = make_executor()
    ended = exe.submit(square, 2)
    assert ended.result() == 4
    assert not ended.cancel(force=True)
    assert ended.result() == 4
    running = begun(exe, gate)
    waiting = exe.submit(square, 3)
    assert waiting.cancel(force=True)
    gate.open()
    assert running.result() is not None
    with Executor(backend="serial") as serial:
        assert not serial.submit(square, 2).cancel(force=True)


@pytest.mark.only_at("this machine", "tcp", reason="other hosts may not see the file")
def test_calls_behind_the_cancelled_one_run_once(make_block_executor, gate, tmp_path):
    exe = make_block_executor()
    for _ in range(20):
        exe.submit(add_line, tmp_path / "warm", 0).result()  # so that calls of this function are sent ahead
    call = begun(exe, gate)
    others = [exe.submit(add_line, tmp_path / "lines", number) for number in range(50)]
    assert call.cancel(force=True)
    assert [other.result() for other in others] == list(range(50))
    assert sorted(map(int, (tmp_path / "lines").read_text().split())) == list(range(50))


def test_racing_forced_cancel_harms_no_other_call(make_block_executor):
    exe = make_block_executor(max_workers=2)
    chosen = random.Random(3)
    for _ in range(25):
        calls = [exe.submit(square, number) for number in range(30)]
        time.sleep(chosen.random() * 0.002)  # the call may be before, in or after its run
        cancelled = chosen.sample(calls, 3)
        for call in cancelled:
            call.cancel(force=True)
        assert all(call.result() == number**2 for number, call in enumerate(calls) if not call.cancelled())
        assert {call for call in calls if call.cancelled()} <= set(cancelled)


@pytest.mark.only_at("this machine", "tcp", reason="other hosts may not see the file")
def test_cancelled_call_is_not_retried(make_executor, gate, tmp_path):
    exe = make_executor(restart_limit=3)
    call = exe.submit(add_line_and_hold, tmp_path / "lines", gate.path)
    gate.wait_until_begun()
    assert call.cancel(force=True)
    exe.shutdown()
    assert (tmp_path / "lines").read_text() == "begun\n"


@pytest.mark.mpi
def test_forced_cancel_ends_all_ranks(make_executor, gate):
    exe = make_executor(cores_per_worker=2)
    call = begun(exe, gate, ranks=2)
    assert call.cancel(force=True)
    assert exe.submit(square, 3).result() == [9, 9]


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_worker_of_a_cancelled_call_is_killed(make_executor, gate):
    exe = make_executor()
    call = begun(exe, gate)
    worker = psutil.Process(exe.info["workers"][0]["pid"])
    call.cancel(force=True)
    exe.shutdown()
    assert still_alive([worker]) == []


def test_large_call_is_cancelled_while_it_is_sent(make_executor, gate):
    exe = make_executor()
    running = begun(exe, gate)
    large = exe.submit(echo, np.ones(20_000_000))
    behind = exe.submit(square, 4)
    assert large.cancel(force=True)
    running.cancel(force=True)
    assert behind.result() == 16


def test_lost_state_ends_the_executor(make_block_executor, gate):
    exe = make_block_executor(init_function=loaded, on_worker_replaced="fail")
    call = begun(exe, gate)
    assert call.cancel(force=True)
    with pytest.raises(futures.BrokenExecutor, match="on_worker_replaced='fail'"):
        exe.submit(square, 2).result()


@pytest.mark.only_at("this machine", reason="it reads the log of this process")
def test_forced_cancel_is_no_warning(make_executor, gate, caplog):
    exe = make_executor()
    call = begun(exe, gate)
    with caplog.at_level("INFO", "pympipool"):
        call.cancel(force=True)
        exe.shutdown()
    assert "the call that it runs is cancelled" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
