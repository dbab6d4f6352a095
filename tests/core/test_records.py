"""Values of one shape become columns of what they consist of, and are built from them again."""

from __future__ import annotations

import pickle
import random
import sys

import pytest

from pympipool._core.records import RowIterator, Transposer, cut, rows_of
from pympipool._core.separation import COPY_DICT, NO_COPY
from pympipool.serialization.plain import ATOMS


class Record:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None


def form_of(values):
    find_way = {Record: COPY_DICT}.get
    return Transposer(set(ATOMS), lambda kind: find_way(kind, NO_COPY), None, None).form_of(values)


def make_value(generator, depth):
    """Return a function that makes random values of one random shape."""
    kind = generator.choice(["atom", "list", "dict", "tuple", "record"] if depth else ["atom"])
    if kind == "atom":
        return lambda: generator.choice([generator.random(), generator.randrange(9), "text", None, (1, ("a", 2.5))])
    if kind == "list":
        item, lengths = make_value(generator, depth - 1), generator.choice([(2,), (0, 1, 3)])
        return lambda: [item() for _ in range(generator.choice(lengths))]
    fields = {name: make_value(generator, depth - 1) for name in "abc"[: generator.randrange(4)]}
    if kind == "tuple":
        return lambda: tuple(make() for make in fields.values())
    return lambda: (dict if kind == "dict" else Record)(**{name: make() for name, make in fields.items()})


@pytest.mark.parametrize("seed", range(60))
def test_values_are_rebuilt_from_columns(seed):
    generator = random.Random(seed)
    make = make_value(generator, 4)
    values = [make() for _ in range(9)]
    form = pickle.loads(pickle.dumps(form_of(values)))
    assert rows_of(form, 9) == values
    assert list(RowIterator(form, 9)) == values
    begin, end = sorted((generator.randrange(10), generator.randrange(10)))
    assert rows_of(cut(cut(form, begin, 9), 0, end - begin), end - begin) == values[begin:end]


def test_columns_share_nothing_with_values():
    values = [{"id": i, "x": [{"a": [2]}]} for i in range(2)]
    form = form_of(values)
    values[1]["x"][0]["a"].append(3)
    first, second = rows_of(form, 2)
    first["x"][0]["a"].append(4)
    assert second == {"id": 1, "x": [{"a": [2]}]}


SHAPES = {
    "keys": [{"a": 1}, {"b": 1}],
    "order of keys": [{"a": 1, "b": 2}, {"b": 1, "a": 2}],
    "types of keys": [{1: 1}, {1: 2}],
    "types": [[1], (1,)],
    "nested types": [{"a": [1]}, {"a": 1}],
    "lengths of tuples": [([1],), ([1], [2])],
    "sets": [{1}, {2}],
    "functions": [[len], [len]],
}


@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
def test_values_of_several_shapes_have_no_form(values):
    assert form_of(values) is None


def shared_twice():
    same = [1]
    return {"a": same, "b": same}


def shared_in_list():
    return [[1]] * 2


def shared_dict():
    record = Record(a=1)
    return [record, Record(a=vars(record))]


def cycle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("make", [shared_twice, shared_in_list, shared_dict, cycle])
def test_shared_parts_have_no_form(make):
    assert form_of([make() for _ in range(4)]) is None


def test_attribute_names_are_interned():
    form = pickle.loads(pickle.dumps(form_of([Record(some_name=1)])))
    (name,) = vars(rows_of(form, 1)[0])
    assert name is sys.intern(name)
