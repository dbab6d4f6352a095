"""`max_tasks_per_child`: workers exit after so many calls, and others take their places."""

import collections
import logging
import os
import threading

import pytest

from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from pympipool.errors import WorkerDied
from support.calls import pid
from support.loopback_tcp import LoopbackTcpBackend


@pytest.fixture(params=["mpi", "tcp"])
def start(request, monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    defaults = {"backend": request.param, "block_allocation": True, "max_workers": 1}
    return lambda **options: Executor(**{**defaults, **options})


def test_worker_exits_after_its_last_call(start, caplog):
    caplog.set_level(logging.INFO, "pympipool")
    with start(max_tasks_per_child=3, on_worker_replaced="fail") as exe:
        pids = [exe.submit(os.getpid).result() for _ in range(7)]
    assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 1]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("limit", [1, 4])
def test_no_worker_runs_more_calls(start, limit):
    """Calls that were sent ahead to a worker that exits run on another one."""
    with start(max_workers=2, max_tasks_per_child=limit) as exe:
        calls = [exe.submit(pid) for _ in range(30)]
        counts = collections.Counter(call.result() for call in calls)
        assert sum(counts.values()) == 30
        assert max(counts.values()) == limit
        assert max(collections.Counter(exe.map(pid, range(20))).values()) <= limit


def test_chunk_counts_as_one_call(start):
    with start(max_tasks_per_child=2) as exe:
        counts = collections.Counter(exe.map(pid, range(12), chunksize=3))
    assert list(counts.values()) == [6, 6]


def test_waiting_calls_run_after_shutdown(start):
    exe = start(max_workers=3, max_tasks_per_child=1)
    calls = [exe.submit(pow, 2, n) for n in range(6)]
    exe.shutdown()
    assert [call.result() for call in calls] == [1, 2, 4, 8, 16, 32]


def test_failed_calls_count_too(start):
    with start(max_tasks_per_child=2) as exe:
        first = exe.submit(os.getpid).result()
        assert isinstance(exe.submit(int, "x").exception(), ValueError)
        assert exe.submit(os.getpid).result() != first


def test_death_in_the_last_call_fails_it(start):
    with start(max_tasks_per_child=1) as exe:
        error = exe.submit(os._exit, 3).exception()
        assert isinstance(error, WorkerDied)
        assert not getattr(error, "__notes__", [])
        assert exe.submit(pow, 2, 3).result() == 8


def leave_thread():
    threading.Thread(target=threading.Event().wait).start()
    return os.getpid()


def test_worker_that_does_not_exit_is_killed(monkeypatch):
    monkeypatch.setattr("pympipool.pool.block_pool.WORKER_EXIT_GRACE_S", 0.2)
    with Executor(backend="mpi", block_allocation=True, max_workers=1, max_tasks_per_child=1) as exe:
        first = exe.submit(leave_thread).result()
        assert exe.submit(pid).result() != first


@pytest.mark.mpi
def test_all_ranks_exit_after_the_last_call(start):
    with start(cores_per_worker=2, max_tasks_per_child=2) as exe:
        pids = [tuple(exe.submit(pid).result()) for _ in range(3)]
    assert pids[0] == pids[1]
    assert not set(pids[0]) & set(pids[2])


def test_limit_without_block_allocation_is_one():
    with Executor(backend="mpi", max_workers=1, max_tasks_per_child=5) as exe:
        assert len({exe.submit(pid).result() for _ in range(3)}) == 3


@pytest.mark.parametrize(("limit", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_limit_raises_at_once(limit, kind):
    with pytest.raises(kind, match="max_tasks_per_child"):
        Executor(max_tasks_per_child=limit)
