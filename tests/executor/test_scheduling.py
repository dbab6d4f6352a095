"""Scheduling: calls run in order on free workers, and never wait behind a long call while another worker is idle."""

import time
from collections import Counter
from concurrent import futures

import psutil
import pytest

from pympipool import Executor
from support.calls import hold, hold_or_square, pid, record, recorded, sleep_and_tell, square
from support.timing import best

pytestmark = pytest.mark.anywhere


def test_long_call_delays_no_short_calls(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    short = [exe.submit(time.sleep, 0.002) for _ in range(100)]
    held = exe.submit(hold, gate.path, "held")
    short += [exe.submit(time.sleep, 0.002) for _ in range(100)]
    for call in short:
        call.result()
    assert not held.done()
    gate.open()
    assert held.result() == "held"


def test_calls_behind_long_call_run_on_other_worker(make_executor, gate, many):
    exe = make_executor(max_workers=2)
    held = exe.submit(hold, gate.path, "held")
    calls = [exe.submit(square, i) for i in range(many(500, 20))]
    assert [call.result() for call in calls] == [i * i for i in range(many(500, 20))]
    assert not held.done()
    gate.open()
    assert held.result() == "held"


def test_prefetched_calls_behind_long_call_are_recalled(make_block_executor, make_gate):
    exe = make_block_executor(max_workers=2)
    # The function is known to be quick, so each worker prefetches several calls.
    known = [exe.submit(hold_or_square, "", i, -1) for i in range(500)]
    assert [call.result() for call in known] == [i * i for i in range(500)]
    for _ in range(20):
        gate = make_gate()
        calls = [exe.submit(hold_or_square, gate.path, i, 10) for i in range(60)]
        assert [call.result() for i, call in enumerate(calls) if i != 10] == [i * i for i in range(60) if i != 10]
        assert not calls[10].done()
        gate.open()
        assert calls[10].result() == 100


def test_calls_are_recalled_without_a_waiting_thread(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    known = [exe.submit(hold_or_square, "", i, -1) for i in range(500)]
    assert [call.result() for call in known] == [i * i for i in range(500)]
    for _ in range(100):
        held, first, second = [exe.submit(hold_or_square, gate.path, i, 0) for i in range(3)]
        first.result()  # until then this thread makes progress itself; afterwards it sleeps
        assert futures.wait([second], timeout=60).not_done == set()
        gate.open()
        held.result()


@pytest.mark.parametrize("number", range(8))
def test_calls_queued_before_start_spread_over_workers(make_executor, gate, number):
    exe = make_executor(max_workers=2)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert len({call.result() for call in calls}) == 2


def test_long_calls_leave_last_worker_to_short_calls(make_executor, gate, many):
    exe = make_executor(max_workers=4)
    long = [exe.submit(hold, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)
    assert [exe.submit(square, i).result() for i in range(many(300, 10))] == [i * i for i in range(many(300, 10))]
    gate.open(3)
    assert len({call.result() for call in long}) == 3


def test_calls_take_first_worker_that_becomes_free(make_block_executor, make_gate):
    exe = make_block_executor(max_workers=2)
    gates = [make_gate(), make_gate()]
    holding = [exe.submit(hold, gate.path) for gate in gates]
    for gate in gates:
        gate.wait_until_begun()
    calls = [exe.submit(pid) for _ in range(50)]
    gates[1].open()
    free = holding[1].result()
    assert {call.result() for call in calls} == {free}
    assert not holding[0].done()
    gates[0].open()


def test_one_worker_runs_calls_in_submission_order(make_block_executor):
    exe = make_block_executor()
    calls = [exe.submit(record, i) for i in range(2000)]
    assert [call.result() for call in calls] == list(range(2000))
    assert exe.submit(recorded).result() == list(range(2000))


def test_per_call_processes_start_in_submission_order(opened, make_gate):
    exe = Executor(max_workers=2)
    opened.append(exe)
    gates = [make_gate() for _ in range(10)]
    calls = [exe.submit(hold, gate.path) for gate in gates]
    gates[0].wait_until_begun()
    gates[1].wait_until_begun()
    for number, ends in enumerate([0, 2, 1, 3, 5, 4, 6, 8], start=2):  # the two workers become free in turn
        assert not any(call.running() for call in calls[number:])
        gates[ends].open()
        gates[number].wait_until_begun()


def test_all_idle_workers_get_work(make_executor, gate):
    exe = make_executor(max_workers=3)
    exe.submit(square, 1).result()
    for _ in range(5):
        calls = [exe.submit(hold, gate.path) for _ in range(3)]
        gate.wait_until_begun(3)
        gate.open(3)
        assert len({call.result() for call in calls}) == 3


def test_call_of_unknown_duration_is_not_prefetched(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    for call in [exe.submit(hold_or_square, "", i, -1) for i in range(500)]:
        call.result()
    held = exe.submit(hold_or_square, gate.path, 3, 3)
    gate.wait_until_begun()
    assert exe.submit(hold_or_square, "", 4, -1).result(timeout=60) == 16
    gate.open()
    assert held.result() == 9


@pytest.mark.alone
def test_equal_calls_are_distributed_evenly(make_block_executor):
    exe = make_block_executor(max_workers=2)
    while len(exe.info["workers"]) < 2:
        exe.submit(pid).result()

    def largest_share():
        ran_by = Counter(call.result() for call in [exe.submit(sleep_and_tell, 0.01) for _ in range(100)])
        return max(ran_by.values())

    assert best(largest_share, 80) < 80  # 50 on average; more if other programs keep one of the workers from its core


@pytest.mark.only_at("this machine", reason="a stopped worker does not return calls that were sent over a network")
def test_call_behind_long_one_runs_on_resumed_worker(make_block_executor, make_gate):
    """No thread waits for a result or submits another call, so the threads of pympipool must do everything."""
    exe = make_block_executor(max_workers=2)
    while len(exe.info["workers"]) < 2:
        exe.submit(pid).result()
    for _ in range(3):
        gate = make_gate()
        absent = psutil.Process(exe.submit(pid).result())
        absent.suspend()
        try:
            for call in [exe.submit(square, i) for i in range(20)]:
                call.result()  # one of them was recalled from the stopped worker
            held = [exe.submit(hold, gate.path) for _ in range(2)]  # both go to the other worker
        finally:
            absent.resume()
        gate.wait_until_begun(2)
        gate.open(2)
        assert len({call.result() for call in held}) == 2
