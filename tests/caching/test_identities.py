"""Keys tell whether two objects are one: calls that change one of them see it."""

import array
import dataclasses
import functools

import numpy as np
import pytest

from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError, digest_of

ITEMS = [1]


class Instance:
    def __init__(self):
        self.values = [1]

    def method(self, values):
        self.values.append(2)
        return len(values)


def counter():
    """Return functions that change and read one variable."""
    count = 0

    def increment():
        nonlocal count
        count += 1

    return increment, lambda: count


# Each: how two objects are made, and what holds them.
IDENTITIES = {
    "lists": (lambda: [1], lambda a, b: [a, b]),
    "dicts": (lambda: {1: 1}, lambda a, b: [a, b]),
    "sets": (lambda: {1}, lambda a, b: [a, b]),
    "bytearrays": (lambda: bytearray(b"a"), lambda a, b: [a, b]),
    "arrays": (lambda: np.zeros(2), lambda a, b: [a, b]),
    "structured scalars": (lambda: np.zeros(1, "i4,i4")[0], lambda a, b: [a, b]),
    "records": (lambda: np.rec.array([(1, 2)], "i4,i4")[0], lambda a, b: [a, b]),
    "masks": (lambda: np.array([False, True]), lambda a, b: [np.ma.array([1, 2], mask=one) for one in (a, b)]),
    "arrays of the standard library": (lambda: array.array("d", [1]), lambda a, b: [a, b]),
    "instances": (Instance, lambda a, b: (a, {"b": b})),
    "instances in a set, and after it": (Instance, lambda a, b: [{a}, b]),
    "instances in a set, and before it": (Instance, lambda a, b: [a, {b}]),
    "instances in items of a set": (Instance, lambda a, b: {(1, a), (2, b)}),
    "variables around functions": (counter, lambda a, b: (a[0], b[1])),
}


@pytest.mark.parametrize(("make", "hold"), IDENTITIES.values(), ids=IDENTITIES)
def test_one_object_twice_differs_from_two(make, hold):
    one, another = make(), make()
    assert digest_of(hold(one, one)) != digest_of(hold(one, another))
    assert digest_of(hold(one, another)) == digest_of(hold(another, one))
    assert digest_of(hold(one, one)) == digest_of(hold(another, another))
    keys = Keys()
    same, different = hold(one, one), hold(one, another)
    assert keys.of_call(max, (same,), {}, 1, "all") != keys.of_call(max, (different,), {}, 1, "all")


def bound_method():
    instance = Instance()
    return instance.method, instance.values


def partly():
    values = [1]
    return functools.partial(max, values), values


def closure():
    values = [1]

    def function(others):
        values.append(2)
        return len(others)

    return function, values


@pytest.mark.parametrize("make", [bound_method, partly, closure])
def test_an_argument_may_belong_to_the_function(make):
    keys = Keys()
    function, values = make()
    same = keys.of_call(function, (values,), {}, 1, "all")
    different = keys.of_call(function, ([1],), {}, 1, "all")
    assert same != different
    assert keys.of_rows(function, [([1],), ([1],)], 1, "all", []) == [different] * 2
    assert keys.of_rows(function, [([1],), (values,)], 1, "all", []) is None  # in a batch it would be another object
    function, values = make()
    assert same == keys.of_call(function, (values,), {}, 1, "all")


def test_rows_may_share_code_with_the_function():
    @dataclasses.dataclass
    class Local:
        x: int = 1

        def method(self):
            return ITEMS

    @dataclasses.dataclass
    class Other:
        y: int = 2

        def method(self):
            return ITEMS

    function = functools.partial(lambda one, other: (ITEMS, other), Local())
    assert len(Keys().of_rows(function, [(Local(),), (Other(),), (lambda: ITEMS,), (np.ones(3),)], 1, "all", [])) == 4
    assert Keys().of_rows(function, [(ITEMS,)], 1, "all", []) is None


# ---- items of sets that differ in nothing: nothing tells in another session which of them is meant ----


class Holder:
    def __init__(self, held):
        self.held = held


def holders(make):
    return {Holder(make()), Holder(make())}


AMBIGUOUS = {
    "the items": lambda: (items := {Instance(), Instance()}, [*items]),
    "what is in an item": lambda: (items := holders(Instance), [one.held for one in items]),
    "items of a set in a set": lambda: ({frozenset(items := [Instance(), Instance()])}, items),
    "items of another set": lambda: (items := {Instance(), Instance()}, {*items}),
    "what is in another item": lambda: {Holder(one := Instance()), Holder(one), Holder(Instance())},
}


@pytest.mark.parametrize("make", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_items_alike_must_not_be_met_again(make):
    with pytest.raises(UnhashableError, match="objects of a set that differ in nothing"):
        digest_of(make())


def test_items_alike_may_share_the_same():
    def make():
        shared = Instance()
        return holders(lambda: shared), shared

    assert digest_of(make()) == digest_of(make())
    assert digest_of(holders(Instance)) == digest_of(holders(Instance)) != digest_of(make()[0])


def test_an_argument_must_not_be_an_item_alike():
    items = {Instance(), Instance()}
    function = functools.partial(max, items)
    assert Keys().of_call(function, (Instance(),), {}, 1, "all")
    with pytest.raises(UnhashableError, match="objects of a set that differ in nothing"):
        Keys().of_call(function, (next(iter(items)),), {}, 1, "all")
