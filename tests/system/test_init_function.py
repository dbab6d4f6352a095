"""`init_function`: runs once in each worker, and returns values for parameters that calls do not pass."""

import os
import sys
from concurrent import futures
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from pympipool import Executor
from pympipool.errors import WorkerStartError
from support import process_calls as calls
from support.calls import Base, add, hold, keywords


@pytest.fixture
def exe():
    """An executor with one worker, whose init_function returns j, k and l."""
    with Executor(max_workers=1, block_allocation=True, init_function=calls.preset) as exe:
        yield exe


# ---- what it fills ----


def test_only_missing_parameters_are_filled(exe):
    assert exe.submit(calls.three, 2, j=5).result() == (2, 5, 3)
    assert exe.submit(calls.three, 2).result() == (2, 4, 3)
    assert exe.submit(calls.three, 2, 6).result() == (2, 6, 3)
    assert exe.submit(calls.three, 2, 6, 7).result() == (2, 6, 7)
    assert exe.submit(calls.three, i=2, k=8).result() == (2, 4, 8)


def test_init_function_overrides_defaults(exe):
    assert exe.submit(calls.with_default, 1).result() == (1, 4)
    assert exe.submit(calls.with_default, 1, j=0).result() == (1, 0)


def test_keyword_only_parameters_are_filled(exe):
    assert exe.submit(calls.keyword_only, 1).result() == (1, 4)


def test_var_keywords_receive_no_init_values(exe):
    assert exe.submit(keywords).result() == {}
    assert exe.submit(keywords, j=1, z=2).result() == {"j": 1, "z": 2}
    assert exe.submit(calls.some_and_kwargs, 1, z=2).result() == (1, 4, {"z": 2})


def test_functions_without_matching_parameters_are_unaffected(exe):
    assert exe.submit(add, 1, 2).result() == 3
    assert exe.submit(sum, [1, 2]).result() == 3
    assert exe.submit(max, 1, 2).result() == 2


def test_methods_partials_lambdas_and_classes_are_filled(exe):
    import functools

    assert exe.submit(lambda i, k: (i, k), 1).result() == (1, 3)
    assert exe.submit(functools.partial(calls.three, 9), j=1).result() == (9, 1, 3)
    assert exe.submit(calls.Threefold(2).times, 5).result() == (10, 4)
    assert exe.submit(calls.Threefold, j=3).result() == calls.Threefold(2, 3)
    assert exe.submit(Base(3), 4).result() == 12


def test_calls_of_map_are_filled(exe):
    assert list(exe.map(calls.three, range(4))) == [(i, 4, 3) for i in range(4)]
    assert list(exe.map(calls.three, range(4), chunksize=3)) == [(i, 4, 3) for i in range(4)]


def test_repeated_function_is_filled_again(exe):
    assert [exe.submit(calls.three, i).result() for i in range(5)] == [(i, 4, 3) for i in range(5)]


def test_parameter_without_value_is_still_missing():
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"k": 3}) as exe:
        with pytest.raises(TypeError, match="'j'"):
            exe.submit(calls.three, 1).result()
        assert exe.submit(calls.three, 1, 2).result() == (1, 2, 3)


# ---- when it runs ----


def test_it_runs_once_in_each_worker(tmp_path, gate):
    log = tmp_path / "log"
    with Executor(max_workers=2, block_allocation=True, init_function=calls.counting_preset(log)) as exe:
        held = [exe.submit(hold, gate.path) for _ in range(2)]
        gate.wait_until_begun(2)
        gate.open(2)
        workers = {call.result() for call in held}
        assert {exe.submit(calls.made_in).result() for _ in range(30)} <= workers
    assert sorted(map(int, log.read_text().split())) == sorted(workers)


def test_it_runs_again_in_replacement_worker(tmp_path):
    log = tmp_path / "log"
    with Executor(max_workers=1, block_allocation=True, init_function=calls.counting_preset(log)) as exe:
        first = exe.submit(calls.made_in).result()
        assert exe.submit(calls.end_self, "SIGKILL").exception()
        second = exe.submit(calls.made_in).result()
    assert first != second
    assert list(map(int, log.read_text().split())) == [first, second]


def test_its_data_stays_in_the_worker():
    """Each call gets the same object, which is loaded once and never sent."""
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"data": np.zeros(10)}) as exe:
        assert [exe.submit(calls.count_up).result() for _ in range(3)] == [1, 2, 3]


def test_closure_can_be_the_init_function():
    large = np.arange(100_000)
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"y": int(large.sum())}) as exe:
        assert exe.submit(add, 1).result() == 4999950001


def test_it_runs_in_cwd_with_the_workers_environment(tmp_path):
    parameters = {"cwd": tmp_path, "threads_per_core": 3, "block_allocation": True}
    with Executor(max_workers=1, init_function=calls.context_of_worker, **parameters) as exe:
        assert exe.submit(lambda where, threads: (where, threads)).result() == (str(tmp_path), "3")


@pytest.mark.mpi
def test_it_runs_on_every_rank():
    parameters = {"max_workers": 1, "cores_per_worker": 2, "block_allocation": True}
    with Executor(init_function=calls.preset_of_rank, **parameters) as exe:
        assert exe.submit(calls.rank_and_preset, 7).result() == [(7, 0, 2), (7, 1, 2)]


@pytest.mark.mpi
def test_it_may_use_mpi_communication():
    parameters = {"max_workers": 1, "cores_per_worker": 2, "block_allocation": True}
    with Executor(init_function=calls.sum_over_ranks, **parameters) as exe:
        assert exe.submit(lambda total: total).result() == [1, 1]


# ---- when it fails ----

WRONG_RESULTS = {"nothing": None, "a list": [1], "a pair": ("j", 1), "a key that is no name": {1: 2}}


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_invalid_return_value_fails_calls(name):
    result = WRONG_RESULTS[name]
    with Executor(max_workers=2, block_allocation=True, init_function=lambda: result) as exe:
        for call in [exe.submit(add, 1) for _ in range(3)]:
            with pytest.raises(BrokenExecutor, match="init_function") as error:
                call.result()
            assert isinstance(error.value.__cause__, TypeError)


def test_exception_fails_calls_without_endless_restarts(tmp_path):
    log = tmp_path / "log"
    with Executor(max_workers=2, block_allocation=True, init_function=calls.failing_preset(log)) as exe:
        for call in [exe.submit(add, 1) for _ in range(10)]:
            with pytest.raises(BrokenExecutor, match=r"init_function failed.*KeyError.*no data here") as error:
                call.result()
            cause = error.value.__cause__
            assert type(cause) is KeyError
            assert 'raise KeyError("no data here")' in str(cause.__cause__)  # the traceback of the worker
        with pytest.raises(BrokenProcessPool, match="no data here"):
            exe.submit(add, 1).result()
    assert len(log.read_text().split()) <= 2  # each worker has tried once


@pytest.mark.parametrize("how", ["exit", "SIGKILL"])
def test_process_exit_fails_calls_without_endless_restarts(how):
    with Executor(max_workers=1, block_allocation=True, init_function=calls.ending_preset(how)) as exe:
        call = exe.submit(add, 1)
        with pytest.raises(WorkerStartError, match="exit code 3" if how == "exit" else "SIGKILL"):
            call.result()


def test_sys_exit_fails_the_calls():
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: sys.exit("no licence")) as exe:
        error = exe.submit(add, 1).exception()
    assert "no licence" in str(error)


def test_init_function_failing_to_unpickle_fails_calls(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "only_here.py").write_text("def load(): return {'y': 1}")
    import only_here

    monkeypatch.undo()  # the worker cannot import it
    with Executor(max_workers=1, block_allocation=True, init_function=only_here.load) as exe:
        error = exe.submit(add, 1).exception()
    assert "only_here" in str(error)


@pytest.mark.mpi
def test_exception_on_one_rank_fails_calls():
    parameters = {"max_workers": 1, "cores_per_worker": 2, "block_allocation": True}
    with Executor(init_function=calls.failing_on_rank_1, **parameters) as exe:
        error = exe.submit(add, 1).exception(timeout=50)
    assert isinstance(error.__cause__, ValueError)
    assert "only on rank 1" in str(error)


def test_all_ways_to_wait_for_failed_calls_end():
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: 1 / 0) as exe:
        submitted = [exe.submit(os.getpid) for _ in range(5)]
        ended, waiting = futures.wait(submitted, timeout=60)
        assert len(ended) == 5
        assert waiting == set()
        with pytest.raises(BrokenExecutor, match="ZeroDivisionError"):
            list(exe.map(add, range(3)))
