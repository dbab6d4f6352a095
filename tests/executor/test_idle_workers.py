"""`idle_timeout`: workers without calls end, and come again."""

import threading
import time

import psutil
import pytest

from pympipool import Executor
from support.calls import hold, pid, sleep_and_return, square

pytestmark = pytest.mark.anywhere

LIMIT_S = 60


def wait_for_workers(exe, count):
    """Wait until so many workers serve."""
    deadline_s = time.monotonic() + LIMIT_S
    while len(exe.info["workers"]) != count:
        assert time.monotonic() < deadline_s, f"{len(exe.info['workers'])} workers, not {count}"
        time.sleep(0.01)


def test_idle_workers_end_and_come_again(make_block_executor, make_gate):
    exe = make_block_executor(2, idle_timeout=0.2)
    assert exe.submit(square, 3).result(LIMIT_S) == 9
    wait_for_workers(exe, 0)
    assert "max_workers=2" in repr(exe)
    assert "0 workers" in repr(exe)
    gates = [make_gate(), make_gate()]
    calls = [exe.submit(hold, gate.path) for gate in gates]
    for gate in gates:  # each has a worker, so both run at a time
        gate.wait_until_begun()
    assert len(exe.info["workers"]) == 2
    for gate in gates:
        gate.open()
    assert len({call.result(LIMIT_S) for call in calls}) == 2
    wait_for_workers(exe, 0)


def test_running_worker_stays(make_block_executor, gate):
    exe = make_block_executor(2, idle_timeout=0.1)
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    wait_for_workers(exe, 1)
    worker = exe.info["workers"][0]["pid"]
    gate.open()
    assert running.result(LIMIT_S) == worker


def test_one_call_after_the_other_needs_one_worker(make_block_executor):
    exe = make_block_executor(3, idle_timeout=0.3)
    exe.submit(pid).result(LIMIT_S)
    wait_for_workers(exe, 0)
    for _ in range(5):
        exe.submit(pid).result(LIMIT_S)
        assert len(exe.info["workers"]) <= 1


def test_no_call_is_lost_while_workers_end(make_block_executor):
    """Calls come at all moments of the end of a worker."""
    exe = make_block_executor(2, idle_timeout=0.01)
    for number in range(60):
        assert exe.submit(square, number).result(LIMIT_S) == number * number
        time.sleep(0.0005 * (number % 40))
    assert list(exe.map(square, range(1000))) == [number * number for number in range(1000)]


def test_calls_of_many_threads_all_end(make_block_executor):
    exe = make_block_executor(3, idle_timeout=0.01)
    wrong = []

    def submit_some(first):
        for number in range(first, first + 30):
            if exe.submit(square, number).result(LIMIT_S) != number * number:
                wrong.append(number)
            time.sleep(0.002 * (number % 7))

    threads = [threading.Thread(target=submit_some, args=(100 * one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT_S)
        assert not thread.is_alive()
    assert wrong == []


def test_init_function_runs_again(make_block_executor):
    exe = make_block_executor(1, idle_timeout=0.1, init_function=lambda: {"value": 7})
    assert exe.submit(lambda value: value, resource_dict=None).result(LIMIT_S) == 7
    wait_for_workers(exe, 0)
    assert exe.submit(lambda value: value + 1, resource_dict=None).result(LIMIT_S) == 8


@pytest.mark.mpi
def test_worker_of_several_ranks_ends_as_a_whole(make_block_executor):
    exe = make_block_executor(1, cores_per_worker=2, idle_timeout=0.2)
    assert exe.submit(square, 3).result(LIMIT_S) == [9, 9]
    wait_for_workers(exe, 0)
    assert exe.submit(square, 4).result(LIMIT_S) == [16, 16]


def test_executor_without_workers_can_be_shut_down(make_block_executor):
    exe = make_block_executor(1, idle_timeout=0.05)
    assert exe.submit(square, 3).result(LIMIT_S) == 9
    wait_for_workers(exe, 0)
    last = exe.submit(square, 4)
    exe.shutdown()
    assert last.result(0) == 16


def test_more_workers_are_started_at_once(make_block_executor):
    exe = make_block_executor(1, idle_timeout=2)
    exe.submit(pid).result(LIMIT_S)
    wait_for_workers(exe, 0)
    exe.max_workers = 2
    wait_for_workers(exe, 2)


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_killed_worker_is_replaced(make_block_executor, gate):
    exe = make_block_executor(1, idle_timeout=0.3, restart_limit=1)
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    psutil.Process(exe.info["workers"][0]["pid"]).kill()
    gate.wait_until_begun()
    gate.open()
    running.result(LIMIT_S)
    wait_for_workers(exe, 0)
    assert exe.submit(square, 2).result(LIMIT_S) == 4


def test_stopped_worker_delays_nothing(make_block_executor):
    """Cores of a worker that does not exit are free in the end."""
    exe = make_block_executor(1, idle_timeout=0.1)
    assert exe.submit(sleep_and_return, 0.05, 3).result(LIMIT_S) == 3
    assert exe.submit(sleep_and_return, 0.15, 4).result(LIMIT_S) == 4


@pytest.mark.parametrize("timeout", [0, -1, "soon"])
def test_wrong_timeout_is_an_error(timeout):
    with pytest.raises((ValueError, TypeError), match="idle_timeout"):
        Executor(backend="mpi", block_allocation=True, idle_timeout=timeout)


def test_options_that_contradict_each_other():
    with pytest.raises(ValueError, match="idle_timeout is 5, which is only for block_allocation=True"):
        Executor(backend="mpi", idle_timeout=5)
    with pytest.raises(ValueError, match="on_worker_replaced='fail' with idle_timeout"):
        Executor(backend="mpi", block_allocation=True, idle_timeout=5, on_worker_replaced="fail")
