"""Batches of calls: a later call of a batch does not change an earlier result."""

from __future__ import annotations

import numpy as np
import pytest

from pympipool.serialization.payload import dump, load
from pympipool.worker.batches import run_each


def results_of(function, count=3):
    parts = dump(run_each(function, [list(range(count))]))
    results, error = load([parts[0], *map(bytearray, parts[1:])])
    assert error is None
    return list(results)


def put(container, number):
    if isinstance(container, dict):
        container["key"] = number
    elif isinstance(container, list):
        container.append(number)
    elif isinstance(container, set):
        container.add(number)
    else:
        container[0] = number
    return container


CHANGED = [
    {"key": -1},
    [],
    set(),
    np.zeros(2),
    np.zeros(9000),
    np.zeros(2, "M8[s]").view("i8"),
    [[], 0],
    {"other": {"a": 1}},
    bytearray(b"abc"),
]


@pytest.mark.parametrize("container", CHANGED, ids=lambda value: type(value).__name__)
def test_results_are_as_their_calls_returned_them(container):
    expected = []
    results = results_of(lambda number: expected.append(repr(put(container, number))) or container)
    assert [repr(result) for result in results] == expected
    assert len({id(result) for result in results}) == 3
    put(results[0], 77)
    assert repr(results[1]) == expected[1]


def test_mutable_item_of_a_result_is_kept_apart():
    inner = [0]
    for make in (lambda: {"a": inner}, lambda: [inner, inner], lambda: (inner, 1)):
        inner[:] = [0]
        results = results_of(lambda number, make=make: put(inner, number) and make())
        assert len({repr(result) for result in results}) == 3
    first, second = results_of(lambda number: [inner, inner])[0]
    assert first is second


@pytest.mark.parametrize(
    "value", [(1, "two", None), frozenset({1, 2}), {3: 4.5}, [np.float64(2), b"x"], {1.5, None}, (), {}, []]
)
def test_containers_of_plain_values_arrive_unchanged(value):
    for result in results_of(lambda _: value):
        assert type(result) is type(value)
        assert result == value


def test_subclasses_of_containers_keep_their_type():
    class Box(dict):
        pass

    assert [type(result).__name__ for result in results_of(lambda _: Box(a=1))] == ["Box"] * 3


def test_small_read_only_arrays_arrive_read_only():
    array = np.zeros(3)
    array.flags.writeable = False
    assert [result.flags.writeable for result in results_of(lambda _: array)] == [False] * 3
    assert all(result.flags.writeable for result in results_of(lambda _: np.zeros(3)))
