"""`Executor.shutdown`: which calls it waits for, which it cancels, and that it leaves nothing behind."""

import threading
import time
from concurrent import futures

import psutil
import pytest

from pympipool import Executor
from support.calls import add, hold, pid, sleep_and_return, square
from support.processes import is_alive, still_alive
from support.timing import best
from support.waiting import wait_until

pytestmark = pytest.mark.anywhere

CLOSED = "cannot schedule new futures after shutdown"


def worker_of(exe):
    return psutil.Process(exe.submit(pid).result())


def test_shutdown_waits_for_running_and_waiting_calls(make_executor):
    exe = make_executor(max_workers=2)
    calls = [exe.submit(sleep_and_return, 0.02, i) for i in range(20)]
    exe.shutdown()
    assert all(call.done() for call in calls)
    assert [call.result() for call in calls] == list(range(20))


@pytest.mark.parametrize("end", ["shutdown", "drop"])
def test_threads_end_though_no_shutdown_waits(block_allocation, where_workers_are, end):
    before = set(threading.enumerate())
    exe = Executor(max_workers=1, block_allocation=block_allocation, **where_workers_are)
    exe.submit(print, "printed by a worker").result()
    if end == "shutdown":
        exe.shutdown(wait=False)
    del exe
    wait_until(lambda: set(threading.enumerate()) <= before)  # a thread that is being started cannot be joined


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_no_worker_is_left_after_shutdown(make_block_executor):
    before = set(psutil.Process().children())
    exe = make_block_executor(max_workers=2)
    worker = worker_of(exe)
    assert worker in psutil.Process().children()
    exe.shutdown()
    assert not worker.is_running()
    assert set(psutil.Process().children()) <= before


def test_shutdown_without_waiting_returns_while_a_call_runs(make_executor, gate):
    exe = make_executor()
    calls = [exe.submit(hold, gate.path, "held"), exe.submit(square, 3)]
    gate.wait_until_begun()
    exe.shutdown(wait=False)
    assert not calls[0].done()
    gate.open()
    assert [call.result() for call in calls] == ["held", 9]


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_workers_exit_after_shutdown_without_waiting(make_block_executor, gate):
    exe = make_block_executor()
    worker = worker_of(exe)
    call = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    exe.shutdown(wait=False)
    gate.open()
    assert call.result() == "held"
    assert still_alive([worker]) == []


def test_cancel_futures_cancels_waiting_calls(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(100)]
    exe.shutdown(wait=False, cancel_futures=True)
    assert all(call.cancelled() for call in waiting)
    assert not running.done()
    gate.open()
    assert running.result() == "held"
    exe.shutdown()


def test_cancel_futures_lets_running_call_finish(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(100)]
    waiting[-1].add_done_callback(lambda _: gate.open())
    exe.shutdown(cancel_futures=True)
    assert running.result() == "held"
    assert all(call.cancelled() for call in waiting)


def test_cancel_futures_cancels_dependent_calls(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path, 2)
    dependent = exe.submit(add, running, 1)
    gate.wait_until_begun()
    exe.shutdown(wait=False, cancel_futures=True)
    assert dependent.cancelled()
    gate.open()
    assert running.result() == 2


def test_shutdown_waits_for_dependent_calls(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path, 0)
    for _ in range(10):
        call = exe.submit(add, call, 1)
    gate.wait_until_begun()
    gate.open()
    exe.shutdown()
    assert call.done()
    assert call.result() == 10


@pytest.mark.parametrize("cancel", ["the call itself", "at shutdown"])
def test_cancelled_dependent_call_does_not_block_shutdown(make_executor, cancel):
    exe = make_executor()
    never = futures.Future()
    call = exe.submit(add, never, 1)
    if cancel == "the call itself":
        assert call.cancel()
    too_late = threading.Timer(60, never.cancel)  # so that a failed test does not hang
    too_late.start()
    exe.shutdown(cancel_futures=cancel == "at shutdown")
    assert call.cancelled()
    assert not never.done()
    too_late.cancel()


@pytest.mark.parametrize("wait", [True, False])
def test_submit_after_shutdown_raises(make_executor, wait):
    exe = make_executor()
    exe.submit(square, 1)
    exe.shutdown(wait=wait)
    with pytest.raises(RuntimeError, match=CLOSED):
        exe.submit(square, 2)


def test_submit_after_shutdown_raises_while_calls_run(make_executor, gate):
    exe = make_executor()
    exe.submit(hold, gate.path)
    gate.wait_until_begun()
    exe.shutdown(wait=False)
    with pytest.raises(RuntimeError, match=CLOSED):
        exe.submit(square, 2)


def test_results_are_available_after_shutdown(make_executor):
    exe = make_executor()
    calls = [exe.submit(square, i) for i in range(10)] + [exe.submit(divmod, 1, 0)]
    exe.shutdown()
    assert [call.result() for call in calls[:-1]] == [i * i for i in range(10)]
    assert isinstance(calls[-1].exception(), ZeroDivisionError)


def test_shutdown_twice_is_allowed(make_executor):
    exe = make_executor()
    exe.submit(square, 1)
    exe.shutdown()
    exe.shutdown()
    exe.shutdown(wait=False, cancel_futures=True)


def test_waiting_shutdown_after_other_waits_for_calls(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    exe.shutdown(wait=False)
    gate.open()
    exe.shutdown(wait=True)
    assert call.done()
    assert not is_alive(call.result())


def test_waiting_shutdown_directly_after_other_returns(block_allocation):
    for _ in range(8):
        exe = Executor(max_workers=1, block_allocation=block_allocation)
        call = exe.submit(square, 3)
        exe.shutdown(wait=False)
        exe.shutdown(wait=True)
        assert call.result() == 9


def test_cancel_futures_still_works_after_a_first_shutdown(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = [exe.submit(square, i) for i in range(20)]
    exe.shutdown(wait=False)
    exe.shutdown(wait=False, cancel_futures=True)
    assert all(call.cancelled() for call in waiting)
    gate.open()
    running.result()


def test_concurrent_shutdown_waits_in_each_thread(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    found = []

    def close():
        exe.shutdown()
        found.append(call.done())

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_shutdown_while_another_thread_waits_for_a_result(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    with futures.ThreadPoolExecutor(1) as waiter:
        result = waiter.submit(call.result)
        gate.open()
        exe.shutdown()
        assert result.result() == "held"


def test_with_block_waits_for_calls(block_allocation):
    with Executor(max_workers=2, block_allocation=block_allocation) as exe:
        calls = [exe.submit(sleep_and_return, 0.01, i) for i in range(10)]
    assert all(call.done() for call in calls)
    with pytest.raises(RuntimeError, match=CLOSED):
        exe.submit(square, 1)


def test_exception_leaves_with_block(block_allocation):
    with pytest.raises(LookupError, match="of the user"), Executor(max_workers=1, block_allocation=block_allocation):
        raise LookupError("of the user")


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_before_workers_have_started(block_allocation, wait):
    for _ in range(5):
        Executor(max_workers=2, block_allocation=block_allocation).shutdown(wait=wait)


def test_immediate_shutdown_still_runs_calls(block_allocation):
    exe = Executor(max_workers=1, block_allocation=block_allocation)
    call = exe.submit(square, 3)
    exe.shutdown()
    assert call.result() == 9


@pytest.mark.parametrize("wait", [True, False])
def test_a_callback_may_close_the_executor(make_executor, wait):
    exe = make_executor()
    closed = threading.Event()

    def close(_):
        exe.shutdown(wait=wait)
        closed.set()

    call = exe.submit(square, 3)
    call.add_done_callback(close)
    assert call.result() == 9
    assert closed.wait(60)
    with pytest.raises(RuntimeError, match=CLOSED):
        exe.submit(square, 1)


def test_callbacks_have_run_when_shutdown_returns(make_executor, many):
    exe = make_executor()
    ran = []
    for i in range(many(50, 10)):
        exe.submit(square, i).add_done_callback(lambda call: ran.append(call.result()))
    exe.shutdown()
    assert sorted(ran) == [i * i for i in range(many(50, 10))]


def test_shutdown_waits_for_calls_submitted_by_callbacks(make_executor):
    exe = make_executor()
    later = []
    submitted = threading.Event()

    def submit(call):
        later.append(exe.submit(sleep_and_return, 0.1, call.result()))
        submitted.set()

    exe.submit(square, 3).add_done_callback(submit)
    submitted.wait()
    exe.shutdown()
    assert later[0].done()
    assert later[0].result() == 9


@pytest.mark.alone
def test_waiting_shutdown_uses_no_cpu_time(make_executor):
    def used_s():
        exe = make_executor()
        call = exe.submit(time.sleep, 1.0)
        before = psutil.Process().cpu_times()
        exe.shutdown()
        after = psutil.Process().cpu_times()
        assert call.done()
        return after.user + after.system - before.user - before.system

    assert best(used_s, 0.5) < 0.5
