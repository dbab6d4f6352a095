"""Most calls are pickled and queued in one step of C: `Dispatcher.submit_small`. What it does not take, nothing has happened to."""

from __future__ import annotations

import gc
import os
import sys
import weakref

import numpy as np
import pytest

from pympipool import Executor, share
from pympipool._core.dispatcher import Dispatcher
from pympipool.execution.function_cache import FunctionTable
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception
from pympipool.serialization.plain import CALL_SCALARS, is_plain
from support.no_memory import run_without_memory

assert is_plain(np.ones(1))  # arrays are known from here on

SHORTAGES = [(first, count) for count in (1, 5) for first in range(12)]


class Argument:
    pass


def echo(*args, **kwargs):
    return args, kwargs


@pytest.fixture
def dispatcher():
    dispatcher = Dispatcher(payload.load, load_exception, lambda: None)
    table = FunctionTable()
    for _ in range(2):
        table.lookup(echo)
    dispatcher.take_small_calls(table.known, CALL_SCALARS, 0)
    return dispatcher


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, "two", [3.0, None]), {}), ((), {"x": 1}), ((b"a" * 1000, np.arange(3)), {"y": (True,)})],
)
def test_small_call_is_queued(dispatcher, args, kwargs):
    future = dispatcher.submit_small(echo, args, kwargs)
    assert dispatcher.waiting_count == 1
    assert future.function_name == "echo"
    assert future.cancel()
    assert dispatcher.waiting_count == 0


@pytest.mark.parametrize(
    "args", [(Argument(),), (np.zeros(100_000),), (bytes(60_000), bytes(60_001)), ({1},), (list(range(1000)),)]
)
def test_other_arguments_are_left_to_submit(dispatcher, args):
    assert dispatcher.submit_small(echo, args, {}) is None
    assert dispatcher.unfinished_count == 0


def test_unknown_function_is_left_to_submit(dispatcher):
    assert dispatcher.submit_small(Argument, (), {}) is None
    assert dispatcher.submit_small(7, (), {}) is None


def test_changed_function_is_left_to_submit(dispatcher, monkeypatch):
    assert dispatcher.submit_small(echo, (), {}) is not None
    known = echo
    monkeypatch.setitem(globals(), "echo", None)
    assert dispatcher.submit_small(known, (), {}) is None


@pytest.mark.parametrize("end", ["close", "fail_all", "fork"])
def test_ended_dispatcher_takes_none(dispatcher, end):
    if end == "close":
        dispatcher.close("closed")
    elif end == "fail_all":
        dispatcher.fail_all(ValueError)
    else:
        dispatcher.after_fork_in_child()
    assert dispatcher.submit_small(echo, (), {}) is None
    assert dispatcher.waiting_count == 0


def test_call_is_queued_whole_or_not_without_memory(dispatcher):
    for shortage in SHORTAGES:
        futures = []
        run_without_memory(lambda: futures.append(dispatcher.submit_small(echo, (1, "two"), {})), *shortage)  # noqa: B023
        queued = [future for future in futures if future is not None]
        assert dispatcher.waiting_count <= 1
        assert len(queued) <= dispatcher.waiting_count  # the list may have had no room for the future
        dispatcher.cancel_waiting()
        assert all(future.cancelled() for future in queued)
        assert dispatcher.unfinished_count == 0


def test_references_are_released(dispatcher):
    argument = [1, 2]
    before = sys.getrefcount(argument), sys.getrefcount(echo)
    futures = [dispatcher.submit_small(echo, (argument,), {"key": argument}) for _ in range(3)]
    assert sys.getrefcount(argument) > before[0]  # kept until the end of the call
    for future in futures:
        future.cancel()
    assert (sys.getrefcount(argument), sys.getrefcount(echo)) == before
    gone = weakref.ref(futures.pop())
    future = None
    assert gone() is None


def test_executor_calls_of_all_ways_agree():
    handle = share(np.arange(5.0))
    with Executor(max_workers=1, block_allocation=True) as exe:
        for args in [(1, "two"), (np.float64(0.5), np.datetime64("2020-01-01")), (handle, [handle]), (np.arange(3),)]:
            results = [exe.submit(echo, *args, key=1).result() for _ in range(3)]
            assert {repr(result) for result in results} == {repr(results[0])}
            assert results[0][1] == {"key": 1}
            assert [type(one) for one in results[2][0]] == [type(one) for one in results[0][0]]


def test_small_calls_are_refused_after_shutdown():
    exe = Executor(max_workers=1, block_allocation=True)
    with exe:
        assert [exe.submit(echo, 1).result() for _ in range(3)] == [((1,), {})] * 3
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(echo, 1)


def test_small_calls_fail_in_forked_child():
    with Executor(max_workers=1, block_allocation=True) as exe:
        assert [exe.submit(echo, 1).result() for _ in range(3)] == [((1,), {})] * 3
        child = os.fork()
        if child == 0:
            try:
                exe.submit(echo, 1)
            except RuntimeError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_dropped_executor_is_collected_after_small_calls():
    exe = Executor(max_workers=1, block_allocation=True)
    assert [exe.submit(echo, 1).result() for _ in range(3)] == [((1,), {})] * 3
    gone = weakref.ref(exe)
    del exe
    gc.collect()
    assert gone() is None
