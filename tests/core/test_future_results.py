"""Futures in cycles are collected, and results that are numbers or short texts are read without an unpickler."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest

from pympipool._core.future import Future
from pympipool._core.future_core import CompletionSource

PICKLED = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    -(2**31),
    2**40,
    -(2**63),
    0.0,
    -1.5,
    float("inf"),
    "",
    "ä" * 64,
    {},
    [1, (2.0, None)],
]


class Loader(CompletionSource):
    """Counts the results that it unpickles."""

    count = 0

    def load(self, parts, is_error):
        self.count += 1
        return pickle.loads(parts)


class Value:
    pass


def with_attribute(future):
    future.itself = future


def with_callback(future):
    future.add_done_callback(lambda _: future)


def with_result(future):
    future.set_result([future])


def with_exception(future):
    error = ValueError()
    error.future = future
    future.set_exception(error)


def with_pickled_result(future):
    future.answer(Loader(), pickle.dumps([]))
    future.result().append(future)


@pytest.mark.parametrize("make", [with_attribute, with_callback, with_result, with_exception, with_pickled_result])
def test_future_in_cycle_is_collected(make):
    future = Future()
    make(future)
    gone = weakref.ref(future)
    del future
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("value", PICKLED, ids=repr)
def test_small_values_are_read_without_unpickler(value):
    from pympipool.serialization import payload

    loader, future = Loader(), Future()
    future.answer(loader, payload.dump(value)[0])
    result = future.result()
    assert (result, type(result)) == (value, type(value))
    assert loader.count == 0


@pytest.mark.parametrize(
    "value", [..., 2**64, -(2**64), "a" * 300, "\ud800", [1], (None,), b"1", 1j, {1: b""}], ids=repr
)
def test_other_results_are_unpickled_once(value):
    loader, future = Loader(), Future()
    future.answer(loader, pickle.dumps(value, 5))
    assert [future.result(), future.result()] == [value, value]
    assert loader.count == 1


@pytest.mark.parametrize(
    "damaged", [b"", b"\x80", b"\x80\x05.", b"\x80\x05K.", b"\x80\x05\x8c\x05abc.", b"\x80\x05J\x01.", b"N."]
)
def test_damaged_pickles_are_left_to_pickle(damaged):
    loader, future = Loader(), Future()
    future.answer(loader, damaged)
    future.exception()
    assert loader.count == 1
