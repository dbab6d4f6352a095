"""Items of results, and results of several calls, as futures of their own."""

import time
from concurrent import futures

import pytest

from pympipool import Executor, batched, get_item_from_future, split_future
from tests.support.waiting import LIMIT_S


class NoAccess(Exception):
    pass


def properties(energy):
    return {"energy": energy, "forces": [1, 2, 3]}


def fail(text):
    raise ValueError(text)


def after(seconds, value):
    time.sleep(seconds)  # the length of the call: it decides which call ends first
    return value


class Closed:
    def __getitem__(self, key):
        raise NoAccess(key)


def test_item_is_an_argument_of_calls(make_executor):
    exe = make_executor()
    energy = get_item_from_future(exe.submit(properties, -3), "energy")
    assert exe.submit(abs, energy).result(LIMIT_S) == 3


def test_items_of_standard_futures():
    with futures.ThreadPoolExecutor(1) as threads:
        assert get_item_from_future(threads.submit(properties, 5), "forces").result(LIMIT_S) == [1, 2, 3]
        assert [item.result(LIMIT_S) for item in split_future(threads.submit(divmod, 17, 5), 2)] == [3, 2]


def test_split_future_counts_items(make_executor):
    exe = make_executor()
    for item in split_future(exe.submit(divmod, 17, 5), 3):
        with pytest.raises(ValueError, match="asked for 3 items, but the result has 2"):
            item.result(LIMIT_S)


def test_missing_item_fails_only_its_future(make_executor):
    call = make_executor().submit(properties, 1)
    missing, energy = get_item_from_future(call, "velocity"), get_item_from_future(call, "energy")
    with pytest.raises(KeyError, match="velocity"):
        missing.result(LIMIT_S)
    assert energy.result(LIMIT_S) == 1


def test_selection_may_raise_anything():
    call = futures.Future()
    call.set_result(Closed())
    with pytest.raises(NoAccess):
        get_item_from_future(call, 1).result(LIMIT_S)


def test_each_item_has_its_own_exception(make_executor):
    call = make_executor().submit(fail, "no forces")
    first, second = split_future(call, 2)
    assert isinstance(first.exception(LIMIT_S), ValueError)
    assert first.exception() is not second.exception(LIMIT_S)
    assert first.exception().__cause__ is call.exception()


def test_cancelled_call_cancels_its_items():
    call = futures.Future()
    first, second = split_future(call, 2)
    call.cancel()
    call.set_running_or_notify_cancel()
    assert first.cancelled()
    assert second.cancelled()
    assert futures.wait([first, second], LIMIT_S).not_done == set()


def test_cancelled_item_leaves_call_and_others():
    call = futures.Future()
    first, second = split_future(call, 2)
    assert first.cancel()
    call.set_result((1, 2))
    assert first.cancelled()
    assert second.result(LIMIT_S) == 2


def test_batches_follow_the_order_of_ends():
    calls = [futures.Future() for _ in range(5)]
    batches = batched(calls, 2)
    for position in (4, 2, 0, 3):
        calls[position].set_result(position)
    assert [batch.result(LIMIT_S) for batch in batches[:2]] == [[4, 2], [0, 3]]
    assert not batches[2].done()
    calls[1].set_result(1)
    assert batches[2].result(LIMIT_S) == [1]


def test_batches_are_arguments_of_calls(make_block_executor):
    exe = make_block_executor(max_workers=2)
    batches = exe.batched([exe.submit(after, 0.01 * (x % 3), x) for x in range(30)], n=7)
    sums = [exe.submit(sum, batch) for batch in batches]
    assert sum(call.result(LIMIT_S) for call in sums) == sum(range(30))
    assert [len(batch.result()) for batch in batches] == [7, 7, 7, 7, 2]


def test_failed_call_fails_its_batch_only(make_executor):
    exe = make_executor(max_workers=1)
    failing, good = batched([exe.submit(fail, "no"), exe.submit(abs, -2)], 1)
    with pytest.raises(ValueError, match="no"):
        failing.result(LIMIT_S)
    assert good.result(LIMIT_S) == [2]


def test_wrong_arguments_are_named():
    call = futures.Future()
    with pytest.raises(TypeError, match=r"future is 3; it must be a concurrent\.futures\.Future"):
        get_item_from_future(3, "energy")
    with pytest.raises(ValueError, match="n is -1; it must be at least 0"):
        split_future(call, -1)
    with pytest.raises(ValueError, match="n is 0; it must be at least 1"):
        batched([call], 0)
    with pytest.raises(TypeError, match=r"futures\[1\] is 5"):
        batched([call, 5], 2)
    with pytest.raises(ValueError, match="a future is there twice"):
        batched([call, call], 2)
    assert batched([], 3) == []


@pytest.mark.parametrize("block_allocation", [False, True])
def test_items_after_the_executor_has_ended(block_allocation):
    with Executor(max_workers=1, block_allocation=block_allocation) as exe:
        call = exe.submit(properties, 2)
    assert get_item_from_future(call, "energy").result(LIMIT_S) == 2
