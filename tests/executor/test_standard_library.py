"""The same tests for `ProcessPoolExecutor` and `pympipool.Executor`, to show differences."""

import multiprocessing
import os
import threading
import traceback
from concurrent import futures

import pytest

from pympipool import Executor
from support.calls import Base, add, divide, echo, fail, hold, hold_or_square, pid, sleep_and_return, square


def make_process_pool(max_workers):
    # This process has threads, so it must not fork.
    return futures.ProcessPoolExecutor(max_workers, mp_context=multiprocessing.get_context("spawn"))


def make_ours(max_workers):
    return Executor(max_workers=max_workers, block_allocation=True)


MAKERS = [pytest.param(make_process_pool, id="ProcessPoolExecutor"), pytest.param(make_ours, id="pympipool")]


@pytest.fixture(params=MAKERS, scope="module")
def make(request):
    return request.param


@pytest.fixture(scope="module")
def either(make):
    """An executor of two workers."""
    with make(2) as exe:
        yield exe


@pytest.fixture
def closed(make):
    exe = make(1)
    exe.shutdown()
    return exe


def test_it_is_an_executor(either):
    assert isinstance(either, futures.Executor)
    assert bool(either)


def test_submit_and_result(either):
    call = either.submit(add, 1, y=2)
    assert isinstance(call, futures.Future)
    assert call.result() == 3
    assert call.result(timeout=0) == 3
    assert call.exception() is None
    assert (call.done(), call.running(), call.cancelled(), call.cancel()) == (True, False, False, False)


def test_states_in_repr(either):
    call = either.submit(square, 2)
    call.result()
    assert "state=finished returned int" in repr(call)
    failed = either.submit(divide, 1, 0)
    failed.exception()
    assert "state=finished raised ZeroDivisionError" in repr(failed)


def test_methods_and_instances(either):
    assert either.submit(Base(3).times, 2).result() == 6
    assert either.submit(Base(3), 2).result() == 6
    assert either.submit(str.upper, "a").result() == "A"


def test_exceptions(either):
    call = either.submit(fail, "a message")
    error = call.exception()
    assert type(error) is ValueError
    assert error.args == ("a message",)
    assert "in fail" in "".join(traceback.format_exception(error))
    assert error.__cause__ is not None
    with pytest.raises(ValueError, match="a message") as caught:
        call.result()
    assert caught.value is error


def test_exceptions_that_end_programs(either):
    assert type(either.submit(exit_with, 3).exception()) is SystemExit
    assert either.submit(square, 2).result() == 4


def exit_with(code):
    raise SystemExit(code)


def test_arguments_that_cannot_be_pickled(either):
    call = either.submit(echo, threading.Lock())
    assert isinstance(call.exception(), Exception)
    assert "lock" in str(call.exception())
    assert either.submit(square, 2).result() == 4


def test_results_that_cannot_be_pickled(either):
    error = either.submit(make_lock).exception()
    assert "lock" in str(error)
    assert either.submit(square, 2).result() == 4


def make_lock():
    return threading.Lock()


def test_map(either):
    assert list(either.map(add, range(10), range(5))) == [0, 2, 4, 6, 8]
    assert list(either.map(square, range(100), chunksize=7)) == [i * i for i in range(100)]
    assert list(either.map(square, [])) == []


def test_map_is_an_iterator(either):
    results = either.map(square, range(3))
    assert iter(results) is results
    assert next(results) == 0
    assert list(results) == [1, 4]


def test_map_that_fails(either):
    results = either.map(divide, [1, 1, 1], [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_with_chunksize_zero(either):
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        either.map(square, [1], chunksize=0)


def test_map_timeout(make, gate):
    with make(1) as exe:
        results = exe.map(hold_or_square, [gate.path] * 2, range(2), [1] * 2, timeout=0.05)
        gate.wait_until_begun()
        with pytest.raises(futures.TimeoutError):
            list(results)
        gate.open()


def test_timeout_error_of_standard_library(either, gate):
    call = either.submit(hold, gate.path, "late")
    with pytest.raises(futures.TimeoutError):
        call.result(timeout=0.01)
    with pytest.raises(futures.TimeoutError):
        call.exception(timeout=0.01)
    gate.open()
    assert call.result() == "late"


def test_cancel(make, opened, gate):
    exe = make(1)
    opened.append(exe)
    running = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(10)]
    assert not running.cancel()
    call = waiting[-1]
    assert call.cancel()
    assert (call.cancelled(), call.done(), call.running()) == (True, True, False)
    assert "state=cancelled" in repr(call)
    with pytest.raises(futures.CancelledError):
        call.result()
    gate.open()
    assert running.result() == "held"
    assert [call.result() for call in waiting[:-1]] == [i * i for i in range(9)]


def test_callbacks(either, gate):
    order = []
    called = threading.Event()
    call = either.submit(hold, gate.path, 9)
    call.add_done_callback(lambda call: order.append(("first", call.result())))
    call.add_done_callback(lambda _: order.append("second"))
    call.add_done_callback(lambda _: called.set())
    gate.open()
    assert called.wait(60)
    assert order == [("first", 9), "second"]


def test_failing_callback_does_not_stop_other_callbacks(either, gate, caplog):
    called = threading.Event()
    call = either.submit(hold, gate.path)
    call.add_done_callback(divide)
    call.add_done_callback(lambda _: called.set())
    gate.open()
    assert called.wait(60)
    assert "exception calling callback" in caplog.text


def test_wait_and_as_completed(either):
    calls = [either.submit(square, i) for i in range(20)]
    assert futures.wait(calls) == (set(calls), set())
    assert set(futures.as_completed(calls)) == set(calls)


def test_shutdown(closed):
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        closed.submit(square, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        closed.map(square, [1])
    closed.shutdown()


def test_shutdown_without_waiting(make):
    exe = make(1)
    call = exe.submit(sleep_and_return, 0.2, "done")
    exe.shutdown(wait=False)
    assert call.result() == "done"


def test_shutdown_with_cancelling(make, opened, gate):
    exe = make(1)
    opened.append(exe)
    calls = [exe.submit(hold, gate.path, "held"), *(exe.submit(square, i) for i in range(50))]
    gate.wait_until_begun()
    gate.open()
    exe.shutdown(cancel_futures=True)
    assert calls[0].result() == "held"
    assert all(call.done() for call in calls)
    assert calls[-1].cancelled()


def test_wrong_numbers_of_workers(make):
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            make(number)


def test_calls_run_elsewhere(either):
    assert either.submit(pid).result() != os.getpid()


def test_worker_death(make):
    with make(1) as exe, pytest.raises(futures.BrokenExecutor):
        exe.submit(os._exit, 1).result()
