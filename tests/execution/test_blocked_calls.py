"""A call is what it was when it was submitted: its function and its arguments, whether it waits for others or is one of a map."""

from __future__ import annotations

import functools
from concurrent.futures import Future

import numpy as np
import pytest

from pympipool.errors import SerializationError
from pympipool.execution.kept_parts import PartCopies
from support.calls import add, echo

TIMEOUT_S = 60


class Account:
    def __init__(self, number):
        self.number = number

    def plus(self, other):
        return self.number + other


def done(value):
    future = Future()
    future.set_result(value)
    return future


@pytest.fixture
def pending():
    return Future()


def test_arguments_are_those_of_submit(executor, pending):
    def plus(number, parameters):
        return number + parameters["n"]

    parameters, futures = {"n": 0}, []
    for n in range(3):
        parameters["n"] = n
        futures.append(executor.submit(plus, pending, parameters))
    pending.set_result(10)
    assert [future.result(TIMEOUT_S) for future in futures] == [10, 11, 12]


def test_containers_of_futures_are_those_of_submit(executor, pending):
    values, nested = [pending, 1], {"a": [pending]}
    for _ in range(3):  # the functions have numbers afterwards
        assert (executor.submit(sum, [1]).result(TIMEOUT_S), executor.submit(echo, [1]).result(TIMEOUT_S)) == (1, [1])
    total, copy = executor.submit(sum, values), executor.submit(echo, nested)
    values.append(100)
    nested["a"].append(100)
    nested["b"] = 0
    pending.set_result(10)
    assert (total.result(TIMEOUT_S), copy.result(TIMEOUT_S)) == (11, {"a": [10]})


@pytest.mark.parametrize("times_before", [0, 3])
@pytest.mark.parametrize("other", [0, [0]])
def test_functions_are_those_of_submit(executor, pending, times_before, other):
    scale = 1

    def scaled(x, _):
        return scale * x

    for _ in range(times_before):  # the function has a number afterwards
        executor.submit(scaled, 1, 1).result(TIMEOUT_S)
    future = executor.submit(scaled, pending, other)
    scale = 1000
    pending.set_result(3)
    assert future.result(TIMEOUT_S) == 3
    assert executor.submit(scaled, 3, other).result(TIMEOUT_S) == 3000


def test_objects_of_methods_are_those_of_submit(executor, pending):
    account = Account(1)
    futures = []
    for account.number in (1, 2, 3):
        futures.append(executor.submit(account.plus, pending))
    pending.set_result(10)
    assert [future.result(TIMEOUT_S) for future in futures] == [11, 12, 13]


def test_small_arrays_are_those_of_submit(executor, pending):
    array = np.ones(5000)  # 40 kB, which travel out of band
    future = executor.submit(add, array, pending)
    array[:] = 7
    pending.set_result(10)
    assert set(future.result(TIMEOUT_S)) == {11}


def test_results_at_hand_are_those_of_submit(executor, pending):
    value = [1]
    waits, runs = executor.submit(add, done(value), pending), executor.submit(echo, done(value))
    value.append(2)
    pending.set_result([3])
    assert (waits.result(TIMEOUT_S), runs.result(TIMEOUT_S)) == ([1, 3], [1])


def test_one_object_arrives_as_one_object(executor, pending):
    shared = [1]
    parts = executor.submit(
        lambda *args: [args[0] is args[1]["x"], args[2] is args[3][0]], shared, {"x": shared}, pending, [pending]
    )
    pending.set_result([2])
    assert parts.result(TIMEOUT_S) == [True, True]


def test_results_become_keys_and_items(executor, pending):
    future = executor.submit(echo, [{pending: 1}, {pending}, [3]])
    pending.set_result(2)
    assert future.result(TIMEOUT_S) == [{2: 1}, {2}, [3]]


def test_unhashable_results_as_keys_fail_the_call(executor, pending):
    at_hand, waits = executor.submit(echo, {done([1]): 1}), executor.submit(echo, [{pending: 1}, [3]])
    large = executor.submit(echo, {executor.submit(list, range(5000)): 1})
    pending.set_result([2])
    for call in (at_hand, waits, large):
        with pytest.raises(TypeError, match="unhashable"):
            call.result(TIMEOUT_S)


def test_what_cannot_be_pickled_fails_at_submit(executor, pending):
    future = executor.submit(add, pending, (n for n in ()))
    with pytest.raises(SerializationError, match="argument 2"):
        future.result(TIMEOUT_S)


@pytest.mark.parametrize("value", [[Future()], [[1], Future()]])
def test_futures_in_results_are_an_error(executor, pending, value):
    futures = [executor.submit(add, done(value), pending), executor.submit(add, pending, 3)]
    pending.set_result(value)
    for future in futures:
        with pytest.raises(SerializationError, match="Future"):
            future.result(TIMEOUT_S)


class Submits:
    """Its pickling submits a call that waits."""

    def __init__(self, executor, pending):
        self.submit = functools.partial(executor.submit, add, pending, [1])
        self.made = None

    def __reduce__(self):
        self.made = self.submit()
        return list, ()


def test_pickling_may_submit_calls(executor, pending):
    argument = Submits(executor, pending)
    future = executor.submit(add, argument, pending)
    pending.set_result([2])
    assert (future.result(TIMEOUT_S), argument.made.result(TIMEOUT_S)) == ([2], [2, 1])


@pytest.mark.parametrize("around", [0, [0]], ids=["with a number", "without"])
def test_batches_run_the_function_of_the_map(make_block_executor, around):
    scale = 1

    def scaled(x):
        return scale * x if around else x * scale

    results = make_block_executor(max_workers=2).map(scaled, range(200))
    scale = 1000
    assert list(results) == list(range(200))


def test_small_arrays_of_maps_are_those_of_map(make_block_executor):
    arrays = [np.full(5000, value) for value in range(30)]
    results = make_block_executor().map(np.max, arrays)
    for array in arrays:
        array[:] = -1
    assert list(results) == list(range(30))


def test_equal_parts_have_one_copy():
    array, copies = np.zeros(1 << 17), PartCopies()
    first, again = (copies.keep([b"", memoryview(array).cast("B")])[1] for _ in range(2))
    array[-1] = 1
    changed = copies.keep([b"", memoryview(array).cast("B")])[1]
    assert first.obj is again.obj
    assert changed.obj is not first.obj
    assert [bytes(part) == array.tobytes() for part in (first, changed)] == [False, True]
