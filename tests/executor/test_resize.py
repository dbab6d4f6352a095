"""`executor.max_workers = n`: add or remove workers while calls run."""

import psutil
import pytest

from pympipool import Executor
from support.calls import hold, pid, sleep_and_return, square
from support.waiting import wait_until

pytestmark = pytest.mark.anywhere


def pids(exe):
    return {worker["pid"] for worker in exe.info["workers"]}


def are_gone(processes):
    return not any(psutil.pid_exists(number) for number in processes)


# ---- block allocation ----


def test_growing_starts_workers(make_block_executor, gate):
    exe = make_block_executor(max_workers=1)
    exe.submit(square, 1).result()
    exe.max_workers = 3
    calls = [exe.submit(hold, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)  # all at the same time, so there are three workers
    assert exe.info["max_workers"] == exe.info["max_cores"] == exe.max_workers == 3
    gate.open(3)
    assert len({call.result() for call in calls}) == 3


def test_growing_runs_waiting_calls(make_block_executor, gate):
    exe = make_block_executor(max_workers=1)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun()
    exe.max_workers = 2
    gate.wait_until_begun()
    gate.open(2)
    assert len({call.result() for call in calls}) == 2


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_shrinking_ends_idle_workers_and_finishes_calls(make_block_executor, gate):
    exe = make_block_executor(max_workers=3)
    wait_until(lambda: len(exe.info["workers"]) == 3)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    before = pids(exe)
    exe.max_workers = 1
    wait_until(lambda: len(exe.info["workers"]) == 1)
    (stayed,) = pids(exe)
    wait_until(lambda: are_gone(before - {stayed}))
    gate.open()
    assert held.result() == stayed
    assert exe.submit(pid).result() == stayed


def test_shrinking_lets_running_calls_finish(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    exe.max_workers = 1
    later = [exe.submit(square, i) for i in range(10)]
    gate.open(2)
    ran_on = {call.result() for call in calls}
    assert [call.result() for call in later] == [i * i for i in range(10)]
    wait_until(lambda: len(pids(exe)) == 1)
    assert pids(exe) < ran_on


def test_prefetched_calls_of_retired_worker_run_elsewhere(make_block_executor):
    exe = make_block_executor(max_workers=2)
    calls = [exe.submit(sleep_and_return, 0.001, i) for i in range(1000)]
    exe.max_workers = 1
    assert [call.result() for call in calls] == list(range(1000))
    wait_until(lambda: len(exe.info["workers"]) == 1)


def test_repeated_resizing_loses_no_call(make_block_executor):
    exe = make_block_executor(max_workers=2)
    calls = []
    for number in [1, 3, 2, 1, 4, 1, 2, 3, 1, 2]:
        exe.max_workers = number
        calls += [exe.submit(square, i) for i in range(100)]
    assert [call.result() for call in calls] == [i * i for i in range(100)] * 10
    wait_until(lambda: len(exe.info["workers"]) == 2)


@pytest.mark.only_at("this machine", "flux", reason="it kills processes of this machine")
def test_dead_worker_is_replaced_only_while_needed(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    exe.max_workers = 1
    for number in pids(exe):
        psutil.Process(number).kill()
    assert [type(call.exception()).__name__ for call in calls] == ["WorkerDied"] * 2
    assert exe.submit(square, 3).result() == 9
    wait_until(lambda: len(exe.info["workers"]) == 1)


def test_map_continues_during_resize(make_block_executor):
    exe = make_block_executor(max_workers=2)
    results = exe.map(square, range(20_000))
    exe.max_workers = 1
    assert list(results) == [i * i for i in range(20_000)]
    results = exe.map(square, range(20_000))
    exe.max_workers = 3
    assert list(results) == [i * i for i in range(20_000)]


@pytest.mark.mpi
def test_workers_of_several_ranks_come_and_go(make_block_executor):
    exe = make_block_executor(max_workers=1, cores_per_worker=2)
    assert exe.submit(square, 2).result() == [4, 4]
    exe.max_workers = 2
    wait_until(lambda: len(exe.info["workers"]) == 2)
    assert exe.info["max_cores"] == 4
    exe.max_workers = 1
    wait_until(lambda: len(exe.info["workers"]) == 1)
    assert exe.submit(square, 3).result() == [9, 9]


# ---- one process per call ----


def test_per_call_pool_grows_number_of_concurrent_calls(make_gate, opened):
    gate = make_gate()
    exe = Executor(max_workers=1)
    opened.append(exe)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun()
    exe.max_workers = 2
    gate.wait_until_begun()
    gate.open(2)
    assert len({call.result() for call in calls}) == 2


def test_per_call_pool_shrinks_number_of_concurrent_calls(make_gate, opened):
    gate = make_gate()
    exe = Executor(max_workers=2)
    opened.append(exe)
    calls = [exe.submit(hold, gate.path) for _ in range(4)]
    gate.wait_until_begun(2)
    exe.max_workers = 1
    gate.open(2)
    gate.wait_until_begun()
    wait_until(lambda: sum(call.done() for call in calls) == 2)
    assert sum(call.running() for call in calls) == 1
    gate.open(2)
    assert len({call.result() for call in calls}) == 4


@pytest.mark.mpi
def test_fewer_cores_than_waiting_call_needs_raises(make_gate, opened):
    gate = make_gate()
    exe = Executor(max_cores=2)
    opened.append(exe)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = exe.submit(square, 2, resource_dict={"cores": 2})
    with pytest.raises(ValueError, match=r"1 cores are too few: a call that waits asks for 2"):
        exe.max_workers = 1
    assert exe.max_workers == 2
    gate.open()
    held.result()
    assert waiting.result() == [4, 4]


# ---- invalid values ----


@pytest.mark.parametrize("number", [0, -1])
def test_zero_workers_raise(executor, number):
    with pytest.raises(ValueError, match=f"max_workers must be greater than 0, not {number}"):
        executor.max_workers = number


@pytest.mark.parametrize("number", ["2", 1.5, None, True])
def test_non_integers_raise(executor, number):
    with pytest.raises(TypeError, match="max_workers is"):
        executor.max_workers = number


def test_resize_after_shutdown_raises(make_executor):
    exe = make_executor()
    exe.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.max_workers = 2


@pytest.mark.only_at("this machine", reason="schedulers give out devices")
def test_more_workers_than_gpus_raise(monkeypatch, make_block_executor):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    exe = make_block_executor(max_workers=1, gpus_per_worker=1)
    with pytest.raises(ValueError, match="gpus_per_worker is 1 for each of max_workers=3 workers"):
        exe.max_workers = 3
    exe.max_workers = 2
    wait_until(lambda: len(exe.info["workers"]) == 2)
