"""An idle executor, and a thread that waits for a result, use almost no CPU time."""

import time

import pytest

from pympipool import Executor
from support.calls import pid
from support.processes import cores_used, family
from support.timing import best

IDLE_S = 5.0


@pytest.mark.mpi
@pytest.mark.alone
def test_idle_mpi_workers_use_below_two_percent():
    with Executor(max_cores=4, cores_per_worker=2, block_allocation=True) as exe:
        calls = [exe.submit(pid) for _ in range(20)]
        ranks = {process for call in calls for process in call.result()}
        # sleeps for the duration of the measurement, not to wait for an event
        assert best(lambda: cores_used(time.sleep, IDLE_S), 0.02) < 0.02
        assert {process.pid for process in family()} >= ranks


@pytest.mark.alone
def test_idle_serial_workers_use_below_two_percent(make_executor):
    exe = make_executor(max_workers=2)
    for call in [exe.submit(pid) for _ in range(20)]:
        call.result()
    assert best(lambda: cores_used(time.sleep, IDLE_S / 2), 0.02) < 0.02


@pytest.mark.alone
def test_waiting_for_long_call_uses_below_five_percent(make_block_executor):
    exe = make_block_executor(max_workers=2)
    exe.submit(pid).result()
    assert best(lambda: cores_used(lambda: exe.submit(time.sleep, 1.5).result()), 0.05) < 0.05
