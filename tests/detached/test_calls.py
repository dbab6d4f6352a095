"""What travels in the place of futures to the jobs of detached calls."""

import pytest

from pympipool import get_item_from_future
from pympipool.caching.entries import PendingEntry
from pympipool.detached.calls import Inputs, dump_detached
from pympipool.detached.futures import DetachedFuture
from pympipool.serialization import payload


@pytest.fixture
def make_future():
    def make():
        future = DetachedFuture(None)
        future.cache_entry = PendingEntry(b"key")
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
