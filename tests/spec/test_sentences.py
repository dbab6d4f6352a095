"""The statements of the specification apart from its examples, in the order of the specification."""

import os
from concurrent import futures
from time import monotonic

import pytest

from pympipool import Executor
from support import process_calls as calls
from support.calls import add, hold
from support.timing import quickest

# ---- compatibility ----


def test_executor_extends_concurrent_futures_executor(executor):
    assert isinstance(executor, futures.Executor)
    future = executor.submit(sum, [1, 1])
    assert isinstance(future, futures.Future)
    assert future.result() == 2


def test_all_parameters_are_optional(block_allocation):
    with Executor(block_allocation=block_allocation) as exe:
        assert exe.submit(sum, [1, 1]).result() == 2


def test_done_and_result_follow_the_call(make_executor, gate):
    future = make_executor(1).submit(hold, gate.path, "held")
    gate.wait_until_begun()
    assert future.done() is False
    gate.open()
    assert future.result() == "held"
    assert future.done() is True


def test_four_functions_on_two_workers_run_in_pairs(make_executor, gate):
    exe = make_executor(max_workers=None, max_cores=2)
    submitted = [exe.submit(hold, gate.path, i) for i in range(4)]
    gate.wait_until_begun(2)
    assert sum(future.running() for future in submitted) == 2
    gate.open(2)
    gate.wait_until_begun(2)
    gate.open(2)
    assert [future.result() for future in submitted] == [0, 1, 2, 3]


def test_map_returns_results_in_order(executor):
    assert list(executor.map(add, [2, 2, 2], [1, 2, 3])) == [3, 4, 5]


# ---- resources ----


def test_each_call_has_its_own_process():
    with Executor(max_cores=2) as exe:
        pids = [exe.submit(os.getpid) for _ in range(10)]
        assert len({future.result() for future in pids}) == 10


def test_block_allocation_reuses_its_processes():
    with Executor(max_cores=2, block_allocation=True) as exe:
        pids = [exe.submit(os.getpid) for _ in range(50)]
        assert len({future.result() for future in pids}) <= 2


def test_resource_dict_of_submit_overrides_the_executor(tmp_path):
    with Executor(max_cores=2, threads_per_core=1, cwd="/") as exe:
        needed = {"threads_per_core": 2, "cwd": tmp_path}
        assert exe.submit(calls.variable, "OMP_NUM_THREADS", resource_dict=needed).result() == "2"
        assert exe.submit(os.getcwd, resource_dict=needed).result() == str(tmp_path)
        assert exe.submit(os.getcwd, resource_dict={"threads_per_core": 2}).result() == "/"


@pytest.mark.mpi
def test_cores_of_submit_override_the_executor():
    with Executor(max_cores=2) as exe:
        assert exe.submit(os.getppid, resource_dict={"cores": 1}).result() > 0
        assert len(exe.submit(os.getpid, resource_dict={"cores": 2}).result()) == 2
    with Executor(max_cores=2, cores_per_worker=2) as exe:
        assert len(set(exe.submit(os.getpid).result())) == 2
        assert isinstance(exe.submit(os.getpid, resource_dict={"cores": 1}).result(), int)


def test_resource_dict_is_refused_with_block_allocation():
    with Executor(max_cores=1, block_allocation=True) as exe, pytest.raises(ValueError, match="resource_dict"):
        exe.submit(add, 1, resource_dict={"threads_per_core": 2})


# ---- data ----


def test_an_init_function_needs_block_allocation():
    with pytest.raises(ValueError, match="block_allocation=True"):
        Executor(max_cores=1, init_function=dict)


# ---- several cores ----


@pytest.mark.mpi
def test_ranks_communicate_through_mpi(make_executor):
    exe = make_executor(max_workers=None, max_cores=2, cores_per_worker=2)
    assert exe.submit(calls.sum_of_ranks, 10).result() == [21, 21]


# ---- coupled functions ----


def test_call_can_depend_on_an_unfinished_call(make_executor, gate):
    exe = make_executor(2)
    first = exe.submit(hold, gate.path, 3)
    gate.wait_until_begun()
    second = exe.submit(add, 1, first)
    assert not second.done()
    gate.open()
    assert second.result() == 4


def test_dependencies_can_be_disabled(make_executor):
    exe = make_executor(1, disable_dependencies=True, refresh_rate=0.01)
    assert exe.submit(add, 1, 2).result() == 3
    with pytest.raises(TypeError, match="disable_dependencies=True"):
        exe.submit(add, 1, exe.submit(add, 1))


# ---- speed ----


@pytest.mark.alone
def test_hundred_single_use_processes_start_per_second():
    with Executor(max_cores=2) as exe:
        exe.submit(os.getpid).result()

        def hundred_calls_s():
            begin = monotonic()
            pids = {future.result() for future in [exe.submit(os.getpid) for _ in range(100)]}
            assert len(pids) == 100
            return monotonic() - begin

        assert quickest(hundred_calls_s, 1.0) < 1.0
