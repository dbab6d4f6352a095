"""What travels in the place of futures to the jobs of detached calls."""

import numpy as np
import pytest

from pympipool import get_item_from_future
from pympipool.caching.entries import StoredEntry
from pympipool.detached.calls import Inputs, dump_detached
from pympipool.detached.futures import DetachedFuture
from pympipool.serialization import payload


@pytest.fixture
def make_future():
    def make():
        future = DetachedFuture(None)
        future.cache_entry = StoredEntry(b"key", None)
        return future

    return make


def test_items_of_a_result_stay_one_object(make_future, monkeypatch):
    future, again = make_future(), make_future()
    first, second = [get_item_from_future(get_item_from_future(future, "a"), index) for index in range(2)]
    parts = dump_detached(max, (first, [second], future, again), {})
    monkeypatch.setattr(Inputs, "load", lambda self, key: {"a": [shared := [key], shared]})
    with Inputs("", {}, None).in_use():
        _, (one, [other], whole, another), _ = payload.load(parts)
    assert one is other is whole["a"][0]
    assert another == whole
    assert another["a"][0] is not one


def test_views_of_an_array_are_copies(make_future, monkeypatch):
    future = make_future()
    array, length = [get_item_from_future(future, index) for index in range(2)]
    rows = [get_item_from_future(array, index) for index in (0, slice(0, 2))]
    parts = dump_detached(max, (array, array, *rows, length), {})
    monkeypatch.setattr(Inputs, "load", lambda self, key: [np.zeros((2, 2)), 2])
    with Inputs("", {}, None).in_use():
        _, (one, same, *views, two), _ = payload.load(parts)
    assert one is same
    assert two == 2
    for value, each in enumerate([one, *views], start=1):
        each[:] = value
    assert [float(each.max()) for each in (one, *views)] == [1, 2, 3]
