from __future__ import annotations

import gc
import weakref

import pytest

from pympipool.errors import SerializationError
from pympipool.serialization.payload import dump, dump_call
from pympipool.worker.call_runner import FUNCTION_CACHE_SIZE, CallRunner


class Thing:
    pass


@pytest.fixture
def calls():
    return CallRunner({})


def test_a_call_that_brings_its_function(calls):
    assert calls.run(0, dump_call(0, lambda x, y: (x, y), (1,), {"y": 2})) == (1, 2)


def test_a_call_that_refers_to_a_function(calls):
    calls.remember(5, dump(lambda x: x + 1))
    assert calls.run(5, dump_call(5, None, (2,), {})) == 3


def test_a_function_takes_the_slot_of_the_one_as_many_numbers_before(calls):
    calls.remember(5, dump(lambda: "old"))
    calls.remember(5 + FUNCTION_CACHE_SIZE, dump(lambda: "new"))
    assert calls.run(5 + FUNCTION_CACHE_SIZE, dump_call(5, None, (), {})) == "new"
    with pytest.raises(RuntimeError, match=f"refers to function 5, but that slot holds {5 + FUNCTION_CACHE_SIZE}"):
        calls.run(5, dump_call(5, None, (), {}))


def test_numbers_that_were_never_sent_are_an_error(calls):
    with pytest.raises(RuntimeError, match="that slot holds 0"):
        calls.run(7, dump_call(7, None, (), {}))


def test_a_function_that_cannot_be_unpickled_fails_each_of_its_calls_with_the_same_words(calls):
    calls.remember(5, [b"no pickle"])
    said = set()
    lengths = set()
    for _ in range(3):
        with pytest.raises(SerializationError, match="the function") as raised:
            calls.run(5, dump_call(5, None, (), {}))
        said.add(str(raised.value))
        lengths.add(len(raised.traceback))
    assert len(said) == 1
    assert len(lengths) == 1


def test_arguments_that_cannot_be_unpickled_are_an_error_of_the_call(calls):
    calls.remember(5, dump(len))
    with pytest.raises(SerializationError, match="the arguments"):
        calls.run(5, [b"no pickle"])
    assert calls.run(5, dump_call(5, None, ([],), {})) == 0


def test_the_parts_are_gone_while_the_function_runs(calls):
    parts = dump_call(0, lambda: None, (), {})
    calls.run(0, parts)
    assert parts == []


def test_nothing_is_kept_of_a_call(calls):
    gc.disable()
    try:
        made = []

        def function(thing):
            made.append(weakref.ref(thing))
            return thing

        calls._functions[1] = (1, function)
        result = calls.run(1, dump_call(1, None, (Thing(),), {}))
        assert made[0]() is result
        del result
        assert made[0]() is None
    finally:
        gc.enable()


def test_the_preset_reaches_both_kinds_of_calls():
    calls = CallRunner({"k": 3})
    calls.remember(1, dump(lambda x, k: (x, k)))
    assert calls.run(1, dump_call(1, None, (1,), {})) == (1, 3)
    assert calls.run(0, dump_call(0, lambda k: k, (), {})) == 3
