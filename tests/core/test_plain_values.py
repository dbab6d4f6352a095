"""Plain values are recognized, and nothing that only looks like one; arrays among them are pickled with their data."""

import concurrent.futures as cf
import pickle
from collections import OrderedDict, namedtuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pympipool._core.plain_values import consists_of, dump_plain_value
from pympipool.serialization.plain import is_plain

KINDS = {type(None), bool, int, float, str, bytes}
CONTAINERS = (tuple, list, dict, set, frozenset)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
others = st.builds(object) | st.builds(cf.Future) | st.complex_numbers()


def nested(leaves):
    keys = st.integers() | st.text()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
        max_leaves=20,
    )


def leaves_of(value):
    if type(value) not in CONTAINERS:
        return [value]
    items = [*value.keys(), *value.values()] if type(value) is dict else value
    return [leaf for item in items for leaf in leaves_of(item)]


@given(nested(scalars | others))
def test_tells_types_of_all_leaves(value):
    assert consists_of(value, KINDS) == all(type(leaf) in KINDS for leaf in leaves_of(value))


def test_sets_are_looked_into():
    assert consists_of(({1, 2}, frozenset("ab")), KINDS)
    assert not consists_of({1, 2j}, KINDS)
    assert not consists_of(frozenset([2j]), KINDS)


def test_keys_are_looked_at():
    assert not consists_of({2j: 1}, KINDS)


@pytest.mark.parametrize("value", [OrderedDict(a=1), namedtuple("Point", "x y")(1, 2), type("List", (list,), {})([1])])
def test_instances_of_subclasses_are_others(value):
    assert not consists_of([value], KINDS)


def test_large_deep_and_endless_are_refused():
    endless = []
    endless.append(endless)
    deep = 1
    for _ in range(100_000):
        deep = [deep]
    assert not consists_of(endless, KINDS)
    assert not consists_of(deep, KINDS)
    assert not consists_of([1] * 100_000, KINDS)
    assert not consists_of([[1] * 100] * 100, KINDS)
    assert consists_of([1] * 100, KINDS)
    while isinstance(deep, list):  # else its end would recurse
        deep = deep.pop()


def test_limit_for_bytes_counts_from_it():
    assert consists_of([b"12345"], KINDS, 6)
    assert not consists_of([b"12345"], KINDS, 5)


def test_runs_no_code_of_a_metaclass():
    class Meta(type):
        def __hash__(cls):
            raise AssertionError("called")

        def __eq__(cls, other):
            raise AssertionError("called")

    assert not consists_of([Meta("Kind", (), {})()], KINDS)


@pytest.mark.parametrize("count", [5, 10_000])
@pytest.mark.parametrize("is_writable", [True, False])
def test_arrays_in_containers_arrive_as_they_were(count, is_writable):
    assert is_plain(np.ones(1))  # arrays are known from here on
    array = np.arange(count, dtype="f4").reshape(-1, 5)
    array.flags.writeable = is_writable
    pickled, *buffers = dump_plain_value({"a": [array, 1.5], "b": (array, "text", array[:1])}, KINDS)
    arrived = pickle.loads(pickled, buffers=buffers)
    assert arrived["a"][0] is arrived["b"][0]
    for got, sent in ((arrived["a"][0], array), (arrived["b"][2], array[:1])):
        assert got.dtype == sent.dtype
        assert got.flags.writeable == is_writable
        assert np.array_equal(got, sent)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.ones((2, 3)).T,
        np.ones(6)[::2],
        np.ones(3, np.dtype(float).newbyteorder()),
        np.ones(3, np.dtype(float, metadata={"unit": "eV"})),
        np.ones(3, "M8[s]"),
        np.array([print]),
        np.ones(3).view(np.recarray),
    ],
)
def test_other_arrays_are_left_to_others(array):
    assert is_plain(np.ones(1))
    assert dump_plain_value([1, array], KINDS) is None
