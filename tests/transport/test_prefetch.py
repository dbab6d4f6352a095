"""Short calls are prefetched by workers on other hosts, and recalled when a call before them turns out to be long."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from pympipool.errors import WorkerDied
from pympipool.worker.mpi import launched_rank
from support.calls import hold, pid
from support.loopback_tcp import LoopbackTcpBackend, relay_process
from support.waiting import wait_until

LONG_S = 0.006
"""Longer than a call should have to wait behind one that was expected to be short."""


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.mpi)], ids=["serial", "ranks"])
def ranks(request):
    return request.param


@pytest.fixture
def make_executor(monkeypatch, ranks):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    executors = []

    def make(max_workers):
        parameters = {"cores_per_worker": ranks, "result_of": "root", "block_allocation": True}
        executors.append(Executor(max_cores=max_workers * ranks, backend="tcp", **parameters))
        return executors[-1]

    yield make
    for exe in executors:
        exe.shutdown(cancel_futures=True)


class Log:
    """A file to which each call writes its number when it runs, on the first rank."""

    def __init__(self, path):
        self.path = str(path)
        self.write(-1)

    def write(self, number):
        if launched_rank(os.environ):
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{number}\n".encode())
        os.close(descriptor)

    def numbers(self):
        with open(self.path) as lines:
            return [int(line) for line in lines][1:]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


def run(log, number, sleep_s=0.0, end=None, gate=None, stop=None):
    log.write(number)
    if stop is not None and not launched_rank(os.environ):
        os.kill(stop, signal.SIGSTOP)
    if gate is not None:
        hold(gate)
    if sleep_s:
        time.sleep(sleep_s)
    if end == signal.SIGKILL:
        os.kill(os.getpid(), end)
    elif end is not None:
        os._exit(end)
    return number


def is_sent_ahead(exe, log, relay):
    """Have a call stop the relay; return True if a call behind it runs, which must have been sent before."""
    stopping = 100 * (1 + len(log.numbers()))
    calls = [exe.submit(run, log, stopping + i - 60, stop=relay.pid if i == 60 else None) for i in range(120)]
    wait_until(lambda: relay.status() == psutil.STATUS_STOPPED)
    deadline_s = time.monotonic() + 1.0
    while stopping + 1 not in log.numbers() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    is_ahead = stopping + 1 in log.numbers()
    relay.resume()
    assert [call.result() for call in calls] == [stopping + i - 60 for i in range(120)]
    return is_ahead


def test_short_calls_are_sent_ahead(make_executor, log):
    exe = make_executor(1)
    assert [exe.submit(run, log, -2).result() for _ in range(50)] == [-2] * 50
    relay = relay_process()
    assert any(is_sent_ahead(exe, log, relay) for _ in range(20))  # not if the relay gets no core at that moment


def test_recalled_calls_keep_their_order(make_executor, log):
    exe = make_executor(1)
    calls = [exe.submit(run, log, i, LONG_S if i % 61 == 60 else 0.0) for i in range(1500)]
    assert [call.result() for call in calls] == list(range(1500))
    assert log.numbers() == list(range(1500))


def test_recalled_calls_run_exactly_once(make_executor, log):
    exe = make_executor(2)
    calls = [exe.submit(run, log, i, LONG_S if i % 61 == 60 else 0.0) for i in range(1500)]
    assert [call.result() for call in calls] == list(range(1500))
    assert sorted(log.numbers()) == list(range(1500))


@pytest.mark.parametrize("end", [3, signal.SIGKILL])
def test_dead_worker_fails_only_the_running_call(make_executor, log, end):
    exe = make_executor(1)
    assert [exe.submit(run, log, -2).result() for _ in range(50)] == [-2] * 50  # known to be short
    calls = [exe.submit(run, log, i, end=end if i == 500 else None) for i in range(600)]
    assert isinstance(calls[500].exception(), WorkerDied)
    assert [call.result() for i, call in enumerate(calls) if i != 500] == [i for i in range(600) if i != 500]
    assert sorted(log.numbers())[50:] == list(range(600))


def test_calls_behind_a_long_call_can_be_cancelled(make_executor, log, make_gate, ranks):
    exe = make_executor(1)
    assert [exe.submit(run, log, -2).result() for _ in range(50)] == [-2] * 50
    gate = make_gate()
    long = exe.submit(run, log, 0, gate=gate.path)
    behind = [exe.submit(run, log, i) for i in range(1, 30)]
    for call in behind:
        wait_until(call.cancel)  # succeeds as soon as the call was recalled
    assert not long.done()
    gate.open(ranks)
    assert long.result() == 0
    assert exe.submit(run, log, 30).result() == 30
    assert log.numbers()[50:] == [0, 30]


def test_large_results_and_prefetched_calls_do_not_deadlock(make_executor):
    exe = make_executor(1)
    large = 3_000_000
    sizes = [large if i % 7 == 0 else 10_000 for i in range(200)]
    calls = [exe.submit(bytes.ljust, b"x" * (size // 3), size) for size in sizes]
    assert [len(call.result()) for call in calls] == sizes
    assert exe.submit(pid).result() == exe.submit(pid).result()
