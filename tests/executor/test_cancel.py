"""`Future.cancel`: calls that have not begun can be cancelled and then never run; others cannot."""

import random
import threading
from concurrent import futures

import numpy as np
import pytest

from support.calls import add, echo, hold, record, recorded, square, touch

pytestmark = pytest.mark.anywhere


@pytest.fixture
def busy(make_executor, gate):
    """Return an executor whose only worker runs a call that waits at a gate, and that call."""
    exe = make_executor()
    call = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    return exe, call


def test_cancelled_waiting_call_never_runs(busy, gate, tmp_path):
    exe, running = busy
    call = exe.submit(touch, tmp_path / "ran")
    assert call.cancel()
    assert call.cancelled()
    assert call.done()
    assert not call.running()
    assert "cancelled" in repr(call)
    with pytest.raises(futures.CancelledError):
        call.result()
    with pytest.raises(futures.CancelledError):
        call.exception()
    gate.open()
    exe.shutdown()
    assert running.result() == "held"
    assert not (tmp_path / "ran").exists()


def test_a_running_call_cannot_be_cancelled(busy, gate):
    _, call = busy
    assert not call.cancel()
    assert not call.cancelled()
    gate.open()
    assert call.result() == "held"


def test_a_call_that_has_ended_cannot_be_cancelled(executor):
    call = executor.submit(square, 2)
    call.result()
    assert not call.cancel()
    assert call.result() == 4


def test_a_call_that_has_failed_cannot_be_cancelled(executor):
    call = executor.submit(divmod, 1, 0)
    call.exception()
    assert not call.cancel()
    assert isinstance(call.exception(), ZeroDivisionError)


def test_a_call_can_be_cancelled_twice(busy):
    exe, _ = busy
    call = exe.submit(square, 2)
    assert call.cancel()
    assert call.cancel()


def test_cancelling_some_calls_leaves_others_running(make_block_executor, gate):
    exe = make_block_executor()
    exe.submit(hold, gate.path)
    gate.wait_until_begun()
    calls = [exe.submit(record, i) for i in range(200)]
    assert all(call.cancel() for call in calls[::2])
    gate.open()
    assert exe.submit(recorded).result() == list(range(1, 200, 2))
    assert [call.result() for call in calls[1::2]] == list(range(1, 200, 2))


def test_racing_cancel_either_runs_or_cancels_call(make_block_executor):
    exe = make_block_executor()
    calls = [exe.submit(record, i) for i in range(3000)]
    order = random.Random(1).sample(calls, len(calls))
    for call in order:
        call.cancel()
    kept = [i for i, call in enumerate(calls) if not call.cancelled()]
    assert [calls[i].result() for i in kept] == kept
    assert exe.submit(recorded).result() == kept


def test_cancelled_call_runs_its_callbacks(busy):
    exe, _ = busy
    told = []
    call = exe.submit(square, 2)
    call.add_done_callback(told.append)
    call.cancel()
    assert told == [call]
    call.add_done_callback(lambda call: told.append(call.cancelled()))
    assert told == [call, True]


def test_cancellation_wakes_all_waiters(busy):
    exe, _ = busy
    call = exe.submit(square, 2)
    begun = threading.Barrier(2)

    def wait():
        begun.wait()
        return call.result()

    with futures.ThreadPoolExecutor(1) as waiter:
        result = waiter.submit(wait)
        begun.wait()
        call.cancel()
        with pytest.raises(futures.CancelledError):
            result.result()


def test_call_queued_behind_running_one_is_cancelled(busy, gate):
    exe, running = busy
    call = exe.submit(add, running, 1)
    assert call.cancel()
    gate.open()
    assert running.result() == "held"
    assert call.cancelled()
    assert exe.submit(square, 2).result() == 4


def test_cancelled_input_cancels_the_call(busy):
    exe, _ = busy
    first = exe.submit(square, 2)
    second = exe.submit(add, first, 1)
    first.cancel()
    with pytest.raises(futures.CancelledError):
        second.result()


def test_large_waiting_call_can_be_cancelled(busy, gate):
    exe, _ = busy
    large = exe.submit(echo, np.ones(5_000_000))
    assert large.cancel()
    gate.open()
    assert exe.submit(echo, np.ones(5_000_000)).result().all()


def test_cancel_during_transfer_of_large_calls_is_harmless(executor, many):
    array = np.ones(1_000_000)
    for _ in range(many(10, 2)):
        calls = [executor.submit(echo, array) for _ in range(6)]
        for call in reversed(calls):
            call.cancel()
        for call in calls:
            if not call.cancelled():
                assert call.result().sum() == array.size
    assert executor.submit(square, 3).result() == 9


def test_cancelled_calls_do_not_count_as_waiting(busy):
    exe, _ = busy
    calls = [exe.submit(square, i) for i in range(20)]
    assert all(call.cancel() for call in calls)
    assert len(exe) == 0


def test_queue_continues_after_a_cancelled_call(busy, gate):
    exe, _ = busy
    first, second = exe.submit(square, 1), exe.submit(square, 2)
    assert first.cancel()
    gate.open()
    assert second.result() == 4
    assert len(exe) == 0
