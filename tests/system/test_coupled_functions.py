"""Futures as arguments: in both modes, calls wait for their inputs without polling and without occupying a core."""

import os
import sys
import threading
from collections import OrderedDict, defaultdict, namedtuple
from concurrent import futures
from time import monotonic

import numpy as np
import pytest

from pympipool import Executor
from pympipool.errors import RemoteTraceback, SerializationError, WorkerDied
from support import process_calls as calls
from support.calls import NoConvergence, add, divide, echo, fail, hold, square, touch
from support.timing import quickest
from support.waiting import wait_until

DEEP = 10_000
"""Number of calls that depend on each other: ten times the recursion limit of Python."""

Point = namedtuple("Point", ["x", "y"])


@pytest.fixture(scope="module")
def block():
    """An executor of two workers with block allocation."""
    with Executor(max_workers=2, block_allocation=True) as exe:
        yield exe


def done(value):
    future = futures.Future()
    future.set_result(value)
    return future


# ---- where futures are found ----

CONTAINERS = {
    "a list": (lambda f: [f, 1], [3, 1]),
    "a tuple": (lambda f: (f, 1), (3, 1)),
    "a named tuple": (lambda f: Point(f, y=[f]), Point(3, [3])),
    "a set": (lambda f: {f, 1}, {3, 1}),
    "a frozen set": (lambda f: frozenset({f, 1}), frozenset({3, 1})),
    "a value of a dict": (lambda f: {"a": f, "b": 1}, {"a": 3, "b": 1}),
    "a key of a dict": (lambda f: {f: "a"}, {3: "a"}),
    "an ordered dict": (lambda f: OrderedDict(b=f, a=1), OrderedDict(b=3, a=1)),
    "a dict with default": (lambda f: defaultdict(list, a=f), defaultdict(list, a=3)),
    "all of them, nested": (
        lambda f: {"a": [({f, 2}, {"b": (f, [f])})], "c": Point([{"d": f}], None)},
        {"a": [({3, 2}, {"b": (3, [3])})], "c": Point([{"d": 3}], None)},
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_future_in_container_is_resolved(executor, name):
    make, expected = CONTAINERS[name]
    result = executor.submit(echo, make(executor.submit(add, 1, 2))).result()
    assert result == expected
    assert type(result) is type(expected)


def test_futures_in_positional_and_keyword_arguments_are_replaced(executor):
    one, two = executor.submit(add, 1), executor.submit(add, 2)
    assert executor.submit(add, one, y=two).result() == 3
    assert executor.submit(add, x=two, y=2).result() == 4


def test_future_used_twice_arrives_as_same_object(executor):
    future = executor.submit(echo, [1])
    first, second = executor.submit(echo, [future, (future,)]).result()
    assert first == [1]
    assert second == ([1],)


def test_container_that_contains_itself_is_accepted(executor):
    around = [executor.submit(add, 1)]
    around.append(around)
    result = executor.submit(echo, around).result()
    assert result[0] == 1
    assert result[1] is result


def test_arguments_of_the_user_are_not_changed(executor):
    future = executor.submit(add, 1)
    given = {"a": [future]}
    executor.submit(echo, given).result()
    assert given == {"a": [future]}


def test_map_accepts_futures(executor):
    inputs = [executor.submit(add, i) for i in range(5)]
    assert list(executor.map(square, inputs)) == [0, 1, 4, 9, 16]


def test_large_results_are_passed_between_calls(executor):
    array = np.arange(2_000_000)
    doubled = executor.submit(np.multiply, executor.submit(echo, array), 2)
    np.testing.assert_array_equal(executor.submit(echo, {"x": [doubled]}).result()["x"][0], 2 * array)


# ---- futures of others ----


def test_futures_of_another_executor_are_waited_for(executor):
    with Executor(max_workers=1, block_allocation=True) as another:
        first = another.submit(add, 1, 2)
        second = executor.submit(add, first, 10)
        assert another.submit(add, second, 100).result() == 113


def test_futures_of_threads_are_waited_for(executor):
    with futures.ThreadPoolExecutor(1) as threads:
        go_on = threading.Event()
        slow = threads.submit(lambda: go_on.wait(60) and 5)
        waiting = executor.submit(add, slow, 1)
        assert not waiting.done()
        go_on.set()
        assert waiting.result() == 6


def test_plain_futures_are_waited_for(executor):
    future = futures.Future()
    waiting = executor.submit(add, [future], [2])
    assert executor.submit(add, 1, 1).result() == 2
    assert not waiting.done()
    future.set_result(1)
    assert waiting.result() == [1, 2]


def test_done_futures_are_resolved_immediately(executor):
    assert executor.submit(add, done(1), done(2)).result() == 3


# ---- waiting takes no core ----


def test_call_waiting_for_inputs_occupies_no_core(make_executor, gate, many):
    exe = make_executor(1)
    inputs = [futures.Future() for _ in range(many(200, 20))]
    waiting = [exe.submit(add, future, 1) for future in inputs]
    assert len(exe) == len(waiting)
    assert exe.submit(hold, gate.path, "held") is not None
    gate.wait_until_begun()  # on the only core
    gate.open()
    for i, future in enumerate(inputs):
        future.set_result(i)
    assert [call.result() for call in waiting] == list(range(1, len(inputs) + 1))
    assert len(exe) == 0


def test_calls_submitted_in_reverse_dependency_order_end(make_executor):
    """The first call depends on the last one. If it waited on the only core, it would deadlock."""
    exe = make_executor(1)
    last = futures.Future()
    first = exe.submit(add, last, 1)
    exe.submit(add, 1, 1).add_done_callback(lambda call: last.set_result(call.result()))
    assert first.result() == 3


def test_shutdown_waits_for_dependent_calls(make_executor):
    exe = make_executor(1)
    chain = exe.submit(add, 0, 1)
    for _ in range(5):
        chain = exe.submit(add, chain, 1)
    exe.shutdown()
    assert chain.result() == 6


def test_cancelling_shutdown_cancels_dependent_calls(make_executor):
    exe = make_executor(1)
    never = futures.Future()
    waiting = exe.submit(add, never, 1)
    exe.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    never.set_result(1)


# ---- inputs that fail ----


def test_failed_input_is_chained_as_cause(executor):
    first = executor.submit(divide, 1, 0)
    second = executor.submit(add, [first], [1])
    with pytest.raises(ZeroDivisionError, match="division by zero") as error:
        second.result()
    assert error.value.__cause__ is first.exception()
    assert isinstance(first.exception().__cause__, RemoteTraceback)
    assert "the call itself did not run" in "".join(error.value.__notes__)


def test_cause_is_first_error_of_chain(executor, many):
    first = last = executor.submit(fail, "the first")
    for _ in range(many(300, 20)):
        last = executor.submit(add, last, 1)
    with pytest.raises(ValueError, match="the first") as error:
        last.result()
    assert error.value.__cause__ is first.exception()


def test_call_fails_with_its_first_failed_input(executor, tmp_path):
    never, broken = futures.Future(), futures.Future()
    waiting = executor.submit(touch, [never, broken, tmp_path / "ran"])
    broken.set_exception(KeyError("at once"))
    with pytest.raises(KeyError, match="at once"):
        waiting.result(timeout=60)
    assert not never.done()
    never.set_result(1)
    assert executor.submit(add, 1, 1).result() == 2
    assert not (tmp_path / "ran").exists()


def test_already_failed_input_fails_call(executor):
    first = executor.submit(fail, "before")
    assert first.exception()
    with pytest.raises(ValueError, match="before"):
        executor.submit(add, 1, first).result()


def test_exception_of_input_keeps_its_attributes(executor):
    broken = futures.Future()
    waiting = executor.submit(add, broken, 1)
    broken.set_exception(NoConvergence("no luck", steps=7))
    with pytest.raises(NoConvergence) as error:
        waiting.result()
    assert error.value.steps == 7


def test_exception_that_refuses_to_be_copied_arrives(executor):
    class Uncopiable(Exception):
        def __reduce__(self):
            raise TypeError("there is only one of me")

        def __copy__(self):
            raise TypeError("there is only one of me")

    broken = futures.Future()
    waiting = executor.submit(add, broken, 1)
    broken.set_exception(Uncopiable("unique"))
    with pytest.raises(Uncopiable, match="unique") as error:
        waiting.result()
    assert error.value is not broken.exception()
    assert error.value.__cause__ is broken.exception()


def test_input_killing_its_worker_fails_dependent_calls(executor):
    lost = executor.submit(calls.end_self, "SIGKILL")
    waiting = executor.submit(add, lost, 1)
    with pytest.raises(WorkerDied) as error:
        waiting.result()
    assert error.value.__cause__ is lost.exception()


def test_cancelled_input_cancels_the_call(executor):
    first = futures.Future()
    second = executor.submit(add, first, 1)
    third = executor.submit(add, second, 1)
    first.cancel()
    first.set_running_or_notify_cancel()
    futures.wait([second, third], timeout=60)
    assert second.cancelled()
    assert third.cancelled()


def test_cancelled_dependent_call_never_runs(executor, tmp_path):
    first = futures.Future()
    second = executor.submit(touch, first)
    third = executor.submit(add, second, 1)
    assert second.cancel()
    wait_until(third.cancelled)
    first.set_result(tmp_path / "ran")
    assert executor.submit(add, 1, 1).result() == 2
    assert not (tmp_path / "ran").exists()


def test_unpicklable_input_fails_only_its_dependent_call(executor):
    first = done(threading.Lock())
    with pytest.raises(SerializationError, match="lock"):
        executor.submit(echo, first).result()
    assert executor.submit(add, 1, 1).result() == 2


def test_unhashable_result_in_set_fails_call(executor):
    with pytest.raises(TypeError, match="unhashable"):
        executor.submit(echo, {executor.submit(echo, [1])}).result()


def test_shut_down_executor_still_runs_accepted_calls(make_executor):
    exe = make_executor(1)
    first = futures.Future()
    second = exe.submit(add, first, 1)
    exe.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(add, first, 2)
    first.set_result(1)
    assert second.result() == 2


# ---- many ----


def test_a_chain_of_10000_calls_ends(block):
    assert sys.getrecursionlimit() < DEEP
    last = block.submit(add, 0, 1)
    for _ in range(DEEP - 1):
        last = block.submit(add, last, 1)
    assert last.result() == DEEP


def test_chain_of_10000_calls_on_one_future(block):
    """No call runs before all are submitted: the future is resolved last, and starts the whole chain."""
    first = last = futures.Future()
    for _ in range(DEEP):
        last = block.submit(add, last, 1)
    first.set_result(0)
    assert last.result() == DEEP


def test_chain_of_10000_calls_fails_with_input(block):
    first = last = futures.Future()
    chain = [last := block.submit(add, last, 1) for _ in range(DEEP)]
    error = ValueError("the first")
    first.set_exception(error)
    assert chain[-1].exception().__cause__ is error
    assert all(call.done() for call in chain)


def test_chain_of_10000_calls_is_cancelled(block):
    first = last = futures.Future()
    chain = [last := block.submit(add, last, 1) for _ in range(DEEP)]
    first.cancel()
    first.set_running_or_notify_cancel()
    wait_until(lambda: all(call.cancelled() for call in chain))


def test_10000_calls_fan_into_one(block):
    numbers = [block.submit(add, i, 1) for i in range(DEEP)]
    assert block.submit(sum, numbers).result() == sum(range(1, DEEP + 1))


def test_one_call_fans_out_to_10000(block):
    first = futures.Future()
    waiting = [block.submit(add, first, i) for i in range(DEEP)]
    first.set_result(1)
    assert sum(call.result() for call in waiting) == sum(range(1, DEEP + 1))


def test_2500_diamonds_in_a_row_end(block):
    """Each diamond splits into two calls and joins them again: 2 to the power of 2500 paths, 10000 calls."""
    top = block.submit(add, 0)
    for _ in range(DEEP // 4):
        left, right = block.submit(add, top, 1), block.submit(add, top, 2)
        middle = block.submit(add, left, right)
        top = block.submit(np.mod, middle, 1009)
    expected = 0
    for _ in range(DEEP // 4):
        expected = (2 * expected + 3) % 1009
    assert top.result() == expected


def test_chain_of_per_call_processes_ends():
    with Executor(max_cores=2) as exe:
        chain = [last := exe.submit(os.getpid)]
        chain += [last := exe.submit(calls.pid_after, last) for _ in range(30)]
        assert len({call.result() for call in chain}) == 31


def test_concurrent_submit_and_resolve_lose_no_call(block):
    inputs = [futures.Future() for _ in range(1000)]
    results = [None] * 4

    def submit(number):
        results[number] = [block.submit(add, [future], [number]) for future in inputs]

    def resolve():
        for i, future in enumerate(inputs):
            future.set_result(i)

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(4)] + [threading.Thread(target=resolve)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, submitted in enumerate(results):
        assert [call.result() for call in submitted] == [[i, number] for i in range(1000)]


@pytest.mark.alone
def test_chain_of_1000_calls_is_fast(block):
    """The limit of half a second is specified. It can only be kept without polling."""

    def chain_s():
        begin = monotonic()
        last = block.submit(add, 0, 1)
        for _ in range(999):
            last = block.submit(add, last, 1)
        assert last.result() == 1000
        return monotonic() - begin

    assert quickest(chain_s, 0.5) < 0.5
