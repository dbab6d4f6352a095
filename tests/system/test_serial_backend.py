"""backend="serial": calls run in the script's own process, with the checks and copies of workers."""

import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from pympipool import Executor
from pympipool.errors import SerializationError
from support.waiting import LIMIT_S

SCRIPT_WITH_BREAKPOINT = """
from pympipool import Executor

def work(x):
    breakpoint()
    return x + 1

with Executor(backend="serial") as exe:
    print("result", exe.submit(work, 1).result())
"""


def double(values):
    values += values
    return values


def fail(text):
    raise ValueError(text)


def where():
    return os.getpid(), threading.get_ident()


def add(i, j, k=0):
    return i + j + k


def stop():
    breakpoint()  # noqa: T100  what is tested


def leave():
    sys.exit(3)


@pytest.fixture(params=[False, True], ids=["single", "block_allocation"])
def serial(request):
    with Executor(backend="serial", block_allocation=request.param) as exe:
        yield exe


def test_calls_run_at_once_in_this_thread(serial):
    future = serial.submit(where)
    assert future.done()
    assert future.result() == (os.getpid(), threading.get_ident())


def test_arguments_and_results_are_copies(serial):
    values = [1, 2]
    assert serial.submit(double, values).result() == [1, 2, 1, 2]
    assert values == [1, 2]


def test_copies_beside_a_lambda_share_nothing(serial):
    """Plain pickle cannot copy a lambda. Views of one array are arrays of their own, as in a worker."""
    array = np.zeros(3)

    def change(function, first, second):
        first[0] = 5
        return function, first, second[:1]

    _, first, second = serial.submit(change, lambda: 1, array, array[:]).result()
    assert [*first, *second, *array] == [5, 0, 0, 0, 0, 0, 0]
    kept = [np.zeros(3)]
    result = serial.submit(lambda: (lambda: 1, kept[0])).result()[1]
    result[0] = 5
    assert kept[0][0] == 0


def test_unpicklable_arguments_and_results_fail(serial):
    for call in (serial.submit(print, threading.Lock()), serial.submit(threading.Lock)):
        with pytest.raises(SerializationError):
            call.result()


def test_local_functions_run(serial):
    assert serial.submit(lambda x: x + 1, 1).result() == 2


def test_exceptions_go_to_futures(serial):
    with pytest.raises(ValueError, match="no"):
        serial.submit(fail, "no").result()
    assert isinstance(serial.submit(leave).exception(), SystemExit)


def test_map_and_dependencies(serial):
    first = serial.submit(add, 1, 2)
    assert serial.submit(sum, [first, serial.submit(add, first, 1)]).result() == 7
    assert list(serial.map(add, range(5), range(5))) == [0, 2, 4, 6, 8]
    failed = serial.submit(add, serial.submit(fail, "input"), 1)
    with pytest.raises(ValueError, match="input"):
        failed.result()


def test_futures_of_others_are_waited_for(serial):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        slow = threads.submit(lambda: time.sleep(0.1) or 5)  # the length of the call
        assert serial.submit(add, slow, 1).result() == 6


def test_cancelled_input_cancels_the_call(serial):
    cancelled = concurrent.futures.Future()
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    assert serial.submit(add, cancelled, 1).cancelled()


def test_waiting_functions_of_the_library(serial):
    calls = [serial.submit(add, i, i) for i in range(3)]
    assert {call.result() for call in concurrent.futures.as_completed(calls)} == {0, 2, 4}

    async def main():
        return await asyncio.wrap_future(serial.submit(add, 2, 3))

    assert asyncio.run(main()) == 5


def test_init_function_runs_once():
    runs = []

    def init():
        runs.append(1)
        return {"j": 4, "k": 5}

    with Executor(backend="serial", block_allocation=True, init_function=init) as exe:
        assert [exe.submit(add, 1).result(), exe.submit(add, 1, j=0).result()] == [10, 6]
    assert runs == [1]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_initializer_that_fails_runs_once(error):
    runs = []

    def fail():
        runs.append(0)
        raise error("no")

    with Executor(backend="serial", initializer=fail) as exe:
        errors = [exe.submit(abs, -1, resource_dict={"retries": 2}).exception() for _ in range(3)]
    assert [type(one) for one in errors] == [BrokenProcessPool] * 3
    assert len(set(map(id, errors))) == 3
    assert type(errors[-1].__cause__) is error
    assert len(runs) == 1


def test_failed_start_keeps_no_call():
    values = {1}  # a set: it can be referred to weakly
    kept = weakref.ref(values)
    with Executor(backend="serial", initializer=fail, initargs=("no",)) as exe:
        first = exe.submit(len, values)
        assert "in fail" in "".join(traceback.format_exception(first.exception()))
        del first, values
        gc.collect()
        assert kept() is None
        assert "in fail" in "".join(traceback.format_exception(exe.submit(abs, 1).exception()))


def test_wrong_init_function_fails_its_calls():
    with Executor(backend="serial", block_allocation=True, init_function=lambda: 3) as exe:
        future = exe.submit(add, 1)
    with pytest.raises(BrokenProcessPool, match=r"init_function failed, .* must return a dict") as error:
        future.result()
    assert type(error.value.__cause__) is TypeError


def test_cwd_lasts_for_the_call(tmp_path):
    before = os.getcwd()
    with Executor(backend="serial", cwd=tmp_path) as exe:
        assert exe.submit(os.getcwd).result() == str(tmp_path)
        assert exe.submit(os.getcwd, resource_dict={"cwd": "/"}).result() == "/"
    assert os.getcwd() == before


def test_several_ranks_are_refused():
    with pytest.raises(ValueError, match="backend 'serial' runs calls in this process"):
        Executor(backend="serial", max_cores=2, cores_per_worker=2)


def test_closed_serial_executor_refuses_calls():
    exe = Executor(backend="serial")
    assert "runs calls in this process" in repr(exe)
    exe.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(add, 1, 1)


def test_breakpoint_works_in_calls():
    command = [sys.executable, "-c", SCRIPT_WITH_BREAKPOINT]
    done = subprocess.run(command, input="p x * 41\nc\n", capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert "41" in done.stdout
    assert "result 2" in done.stdout


@pytest.mark.parametrize("block_allocation", [False, True])
def test_breakpoint_in_worker_names_the_remedy(block_allocation):
    with Executor(max_workers=1, block_allocation=block_allocation) as exe:
        future = exe.submit(stop)
    with pytest.raises(RuntimeError, match=r'Executor\(backend="serial"\)'):
        future.result()


def test_users_breakpoint_hook_is_kept(monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    with Executor(max_workers=1) as exe:
        assert exe.submit(stop).result(LIMIT_S) is None
