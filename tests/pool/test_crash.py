"""A supervisor that ends by an unexpected failure fails all calls of its executor, and leaves nothing behind."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor

import pytest

from pympipool import Executor
from pympipool.pool import event_loop
from support.calls import square
from support.waiting import LIMIT_S, wait_until


@pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])
def test_crash_of_supervisor_fails_all_calls(block_allocation, monkeypatch):
    monkeypatch.setattr(event_loop, "FAILURES_MAX", 2)
    monkeypatch.setattr(event_loop, "FAILURE_PAUSE_S", 0.01)
    exe = Executor(max_workers=1, backend="mpi", block_allocation=block_allocation)
    assert exe.submit(square, 2).result() == 4
    calls = [exe.submit(time.sleep, 100), exe.submit(square, 3)]
    wait_until(calls[0].running)
    loop = exe._engine.pool.loop

    def fail():
        raise ValueError("a bug")

    monkeypatch.setattr(loop, "_run_once", fail)
    loop.call(lambda: None)
    for call in calls:
        with pytest.raises(BrokenExecutor, match="unexpected failure"):
            call.result(timeout=LIMIT_S)
    with pytest.raises((BrokenExecutor, RuntimeError), match="unexpected failure"):
        exe.submit(square, 4).result(timeout=LIMIT_S)
    exe.shutdown()
    assert not loop.thread.is_alive()
