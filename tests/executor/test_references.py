"""Neither master nor worker keeps a reference to arguments and results of calls that have ended."""

import atexit
import contextlib
import gc
import os
import threading
import weakref

import numpy as np
import pytest

from pympipool import Executor
from support.calls import (
    FailsToPickle,
    NoConvergence,
    Tracked,
    add,
    echo,
    hold,
    square,
    track,
    track_and_fail,
    tracked_alive,
)

pytestmark = pytest.mark.anywhere

LARGE = 3_000_000


@pytest.fixture(autouse=True)
def without_collector():
    """Disable the garbage collector: objects must be freed by their reference count alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watch:
    """A check that an object is freed, immediately or when the last thread that uses it has finished."""

    def __init__(self, thing):
        self.reference = weakref.ref(thing)
        self._gone = threading.Event()
        weakref.finalize(thing, self._gone.set)

    def is_gone(self):
        return self._gone.wait(60) and self.reference() is None


def array_of(size_bytes):
    return np.zeros(size_bytes, np.int8)


def take(*_args, **_kwargs):
    return None


def raise_no_convergence():
    raise NoConvergence("after", 5)


def fail_with(*_args):
    raise ValueError("the call fails")


# ---- in the master ----


def test_function_of_last_call_is_released(executor):
    data = array_of(LARGE)

    def function(data=data):
        return data.size

    watch = Watch(function)
    call = executor.submit(function)
    del function
    assert call.result() == LARGE
    assert watch.is_gone()


@pytest.mark.parametrize("size_bytes", [10, 100_000, LARGE])
def test_arguments_are_released_when_call_ends(executor, size_bytes):
    argument = array_of(size_bytes)
    watch = Watch(argument)
    call = executor.submit(take, argument, key=argument)
    del argument
    call.result()
    assert watch.is_gone()


SUBMISSIONS = {
    "argument": lambda exe, handle: exe.submit(hold_handle, handle).result,
    "keyword": lambda exe, handle: exe.submit(hold_handle, handle=handle).result,
    "nested": lambda exe, handle: exe.submit(hold_handle, [{"of a call": handle}]).result,
    "method": lambda exe, handle: exe.submit(handle.hold).result,
    "closure": lambda exe, handle: exe.submit(lambda: [handle.hold()]).result,
    "map": lambda exe, handle: exe.map(hold_handle, [handle], chunksize=1).__next__,
}


@pytest.mark.parametrize("submit", SUBMISSIONS.values(), ids=SUBMISSIONS)
def test_arguments_stay_alive_until_the_call_ends(make_executor, gate, submit):
    handle = Handle(gate.path)
    watch = Watch(handle)
    result = submit(make_executor(), handle)
    del handle
    gate.wait_until_begun()
    assert watch.reference() is not None
    gate.open(1)
    result()
    assert watch.is_gone()


class Handle:
    """Stands for something that exists only as long as this object, as a proxy of a Manager does."""

    def __init__(self, path):
        self.path = path

    def hold(self):
        hold(self.path)


def hold_handle(handle):
    while not isinstance(handle, Handle):
        handle = next(iter(handle.values() if isinstance(handle, dict) else handle))
    handle.hold()


@pytest.mark.parametrize("size_bytes", [10, LARGE])
def test_arguments_are_released_when_call_fails(executor, size_bytes):
    argument = array_of(size_bytes)
    watch = Watch(argument)
    call = executor.submit(fail_with, argument)
    del argument
    assert isinstance(call.exception(), ValueError)
    assert watch.is_gone()


def test_unpicklable_arguments_are_released(executor):
    argument = FailsToPickle()
    watch = Watch(argument)
    call = executor.submit(take, argument)
    del argument
    assert call.exception() is not None
    assert watch.is_gone()


@pytest.mark.parametrize("size_bytes", [10, LARGE])
def test_arguments_of_cancelled_call_are_released(make_executor, gate, size_bytes):
    exe = make_executor()
    exe.submit(hold, gate.path)
    gate.wait_until_begun()
    argument = array_of(size_bytes)
    watch = Watch(argument)
    call = exe.submit(take, argument)
    del argument
    assert call.cancel()
    assert watch.is_gone()


def test_arguments_of_dependent_call_are_released(executor):
    argument = array_of(LARGE)
    watch = Watch(argument)
    call = executor.submit(take, argument, executor.submit(square, 2))
    del argument
    call.result()
    assert watch.is_gone()


def test_function_with_data_is_released(executor):
    def make():
        data = array_of(LARGE)
        return Watch(data), lambda: len(data)

    watch, function = make()
    call = executor.submit(function)
    assert call.result() == LARGE
    del function
    assert watch.is_gone()


def test_object_of_called_method_is_released(executor):
    tracked = Tracked([3])
    watch = Watch(tracked)
    call = executor.submit(tracked.__eq__, 1)
    del tracked
    call.result()
    assert watch.is_gone()


@pytest.mark.parametrize("size_bytes", [10, 100_000, LARGE])
def test_results_are_released_with_their_future(executor, size_bytes):
    call = executor.submit(array_of, size_bytes)
    watch = Watch(call.result())
    assert watch.reference() is not None
    del call
    assert watch.is_gone()


def test_exceptions_are_released_with_their_future(executor):
    call = executor.submit(raise_no_convergence)
    with contextlib.suppress(NoConvergence):
        call.result()
    watch = Watch(call.exception())
    assert watch.reference() is not None
    del call
    assert watch.is_gone()


def test_unreferenced_future_is_freed_after_its_call(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    watch = Watch(call)
    del call
    gate.wait_until_begun()
    assert watch.reference() is not None
    gate.open()
    assert watch.is_gone()


def test_callbacks_are_released_after_they_ran(executor):
    class Callback:
        def __init__(self):
            self.called = threading.Event()

        def __call__(self, _):
            self.called.set()

    callback = Callback()
    called, watch = callback.called, Watch(callback)
    call = executor.submit(square, 2)
    call.add_done_callback(callback)
    del callback
    assert called.wait(60)
    assert watch.is_gone()
    assert call.result() == 4


def test_map_releases_consumed_results(executor):
    results = executor.map(array_of, [LARGE] * 5)
    for _ in range(5):
        watch = Watch(next(results))
        assert watch.is_gone()


def test_chunked_map_releases_consumed_results(executor):
    results = executor.map(Tracked, range(6), chunksize=3)
    for _ in range(6):
        watch = Watch(next(results))
        assert watch.is_gone()


def test_chunked_map_of_futures_releases_consumed_results(executor):
    results = executor.map(Tracked, [executor.submit(square, 2), 1, 2], chunksize=3)
    for _ in range(3):
        watch = Watch(next(results))
        assert watch.is_gone()


def test_exiting_worker_keeps_no_result(make_executor, gate):
    def result_with_late_exit(path):
        atexit.register(hold, path)
        return Tracked()

    call = make_executor(max_workers=1, block_allocation=False).submit(result_with_late_exit, gate.path)
    watch = Watch(call.result())
    gate.wait_until_begun()  # the worker exits
    del call
    assert watch.is_gone()
    gate.open()


def test_closed_executor_is_freed():
    exe = Executor(max_workers=1, block_allocation=True)
    exe.submit(square, 2).result()
    exe.shutdown()
    watch = Watch(exe)
    del exe
    assert watch.is_gone()


def test_input_is_released_once_sent_to_call(executor):
    first = executor.submit(array_of, LARGE)
    second = executor.submit(len, first)
    assert second.result() == LARGE
    watch = Watch(first)
    del first
    assert watch.is_gone()


# ---- in the worker ----


def test_the_worker_keeps_neither_arguments_nor_results(make_block_executor):
    exe = make_block_executor()
    for _ in range(3):
        exe.submit(track, Tracked()).result()
    assert exe.submit(tracked_alive).result() == [False] * 6


def test_the_worker_keeps_no_result_while_it_waits(make_block_executor, tmp_path):
    def result_with_notice(path):
        result = Tracked()
        weakref.finalize(result, lambda: path.write_text("gone"))
        return result

    notice = tmp_path / "gone"
    os.mkfifo(notice)
    exe = make_block_executor()
    call = exe.submit(result_with_notice, notice)
    assert notice.read_text() == "gone"  # waits for it
    assert isinstance(call.result(), Tracked)


def test_worker_releases_objects_of_failed_call(make_block_executor):
    exe = make_block_executor()
    for _ in range(3):
        assert exe.submit(track_and_fail, Tracked()).exception() is not None
    assert exe.submit(tracked_alive).result() == [False] * 3


@pytest.mark.mpi
def test_ranks_keep_neither_arguments_nor_results(make_block_executor):
    exe = make_block_executor(cores_per_worker=2)
    for _ in range(3):
        exe.submit(track, Tracked()).result()
    assert exe.submit(tracked_alive).result() == [[False] * 6] * 2


def test_echoed_arrays_are_released_on_both_sides(executor):
    array = array_of(LARGE)
    watches = [Watch(array)]
    call = executor.submit(echo, array)
    del array
    watches.append(Watch(call.result()))
    assert executor.submit(add, 1, 1).result() == 2
    del call
    assert all(watch.is_gone() for watch in watches)
