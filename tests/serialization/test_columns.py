"""Batches: what calls get and return travels as copies that no other call of the batch can change."""

from __future__ import annotations

import functools
import operator
import random
import threading
import weakref
from collections import namedtuple

import pytest

from pympipool.errors import SerializationError
from pympipool.serialization import payload, plain
from pympipool.serialization.column_forms import ArrayColumn, Entries, Records, Rows
from pympipool.serialization.columns import dump_results, freeze, pack, transpose
from pympipool.serialization.copying import result_copier
from pympipool.worker.batches import run_each

np = pytest.importorskip("numpy", reason="numpy is not installed: pip install numpy")

Point = namedtuple("Point", "x y")


def received(*columns):
    """Return the rows of arguments that a worker gets, and the columns as they travelled."""
    packed = pack([list(column) for column in columns], files_by_name=False)
    (arrived, _) = payload.load([bytes(part) for part in payload.dump_call(1, print, packed, payload.BATCH)])
    rows = []
    run_each(lambda *row: rows.append(row), arrived)
    return rows, packed


def frozen(results):
    """Return results as a worker keeps them until the end of the batch, and True if there are instances among them."""
    copier, kept = result_copier(8), []
    copier.freeze_all(kept, iter(results), freeze)
    return kept, bool(copier.kinds)


def dumped(kept, has_instances=False):
    return dump_results(kept, None, has_instances)


def returned(*results):
    arrived, error = payload.load([bytes(part) for part in dumped(*frozen(results))])
    assert error is None
    return list(arrived)


def assert_same(value, other):
    assert type(value) is type(other)
    if isinstance(value, np.ndarray):
        assert value.dtype == other.dtype
        assert value.shape == other.shape
        assert value.flags.writeable == other.flags.writeable
        np.testing.assert_array_equal(value, other)
    else:
        assert value == other


def read_only(array):
    array.flags.writeable = False
    return array


COLUMNS = {
    "numbers": [1, 2.5, None],
    "tuples": [(1, ("a", b"c")), ()],
    "numpy scalars": [np.float64(1.5), np.float64(-0.0)],
    "numpy scalars of several types": [np.float64(1.5), np.int8(3), True],
    "dicts": [{"a": 1}, {"b": np.float32(2)}, {}],
    "lists and sets": [[1, 2], {3, 4}, frozenset({5})],
    "arrays of one shape": [np.arange(3.0), np.ones(3)],
    "arrays of several shapes": [np.arange(3), np.zeros((2, 2)), np.array(7)],
    "read-only arrays": [read_only(np.arange(3)), read_only(np.arange(4))],
    "structured arrays": [np.zeros(2, [("x", "f8"), ("n", "i4")]), np.ones(2, [("x", "f8"), ("n", "i4")])],
    "arrays of strings": [np.array(["a", "bc"]), np.array(["d", "ef"])],
    "dates": [np.array(["2020-01-02"], "M8[D]"), np.array(["2021-01-02"], "M8[D]")],
    "large arrays": [np.arange(50_000.0), np.arange(50_000.0) + 1],
    "nested": [{"a": [1, {"b": [2]}]}, [[np.arange(2).tolist()]]],
    "large arrays in a dict": [{"a": np.arange(50_000).tobytes()}, {"a": 1}],
    "objects": [Point(1, [2]), threading.Lock, functools.partial(operator.add, 1)(2)],
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_arguments_arrive_unchanged(column):
    rows, _ = received(column)
    assert len(rows) == len(column)
    for (value,), sent in zip(rows, column, strict=True):
        assert_same(value, sent)


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_results_arrive_unchanged(column):
    results = returned(*column)
    assert len(results) == len(column)
    for value, sent in zip(results, column, strict=True):
        assert_same(value, sent)


def test_results_of_several_kinds_keep_their_order():
    mixed = [1, np.arange(3), [1], {"a": [[]]}, np.arange(50_000), "end"]
    for value, sent in zip(returned(*mixed), mixed, strict=True):
        assert_same(value, sent)


SHARED = {
    "list": [1],
    "dict": {"a": 1},
    "array": np.arange(3),
    "large array": np.arange(50_000),
    "nested list": [[1]],
}


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED)
def test_rows_share_no_object(shared):
    rows, _ = received([shared, shared])
    (first,), (second,) = rows
    assert first is not second
    if isinstance(first, np.ndarray):
        first[0] = 99
        assert second[0] != 99


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED)
def test_object_stays_shared_within_row(shared):
    rows, _ = received([shared, 1], [shared, 2])
    assert rows[0][0] is rows[0][1]


ONE_SHAPE = {
    "dicts": lambda i: {"id": i, "cell": [[1.0, 0.0], [0.0, float(i)]], "tags": ["a"] * (i % 3)},
    "arrays": lambda i: {"positions": np.full((2, 3), float(i)), "count": np.int64(i)},
    "read-only arrays": lambda i: [read_only(np.arange(i + 1))],
}


@pytest.mark.parametrize("make", ONE_SHAPE.values(), ids=ONE_SHAPE)
def test_values_of_one_shape_arrive_unchanged(make):
    sent = [make(i) for i in range(8)]
    packed = transpose([list(range(8)), sent])
    assert type(packed[1]) is Records
    (arrived, _) = payload.load([bytes(part) for part in payload.dump_call(1, print, packed.cut(2, 6), payload.BATCH)])
    rows = []
    run_each(lambda *row: rows.append(row), arrived)
    assert [i for i, _ in rows] == [2, 3, 4, 5]
    for (i, value), back in zip(rows, returned(*[make(i) for i in range(2, 6)]), strict=True):
        for one in (value, back):
            for part, original in zip(*(x.values() if type(x) is dict else x for x in (one, sent[i])), strict=True):
                assert_same(part, original)


def test_arrays_keep_the_order_of_fortran():
    sent = [[np.asfortranarray(np.full((2, 3), i))] for i in range(8)]
    assert transpose([sent]) is None
    assert all(array.flags.f_contiguous for ((array,),) in received(sent)[0])


class Node:
    """An instance that is its `__dict__`."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __eq__(self, other):
        return type(other) is Node and vars(self) == vars(other)

    __hash__ = object.__hash__


NODES = {
    "nested": lambda: Node(number=1, items=[1, {"a": {2}}], child=Node(name="x", tags=("y", [3]))),
    "array": lambda: Node(values=np.arange(3.0).tolist(), more=np.float64(2)),
    "in a container": lambda: {"nodes": [Node(number=1)], "empty": Node()},
}


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_instances_arrive_unchanged(make):
    nodes = [make() for _ in range(10)]
    for for_now in (False, True):
        packed = pack([nodes, list(range(10))], False, for_now=for_now)
        assert type(packed[0]) is Rows
        assert type(packed[0][2:4]) is Rows
        (arrived, _) = payload.load(payload.dump_call(1, print, packed, payload.BATCH))
        rows = [*zip(*arrived[0].iterators(), strict=True)]
        assert rows == [(make(), number) for number in range(10)]
    assert returned(*nodes) == nodes


def test_instance_that_contains_itself_arrives():
    node = Node(items=[])
    node.items += [node, node.items]
    (((arrived,),), packed), (result,) = received([node]), returned(node)
    assert type(packed[0]) is Rows
    for one in (arrived, result):
        assert one.items[0] is one
        assert one.items[1] is one.items


def test_rows_share_no_part_of_instances():
    part = Node(items=[1])
    nodes = [Node(part=part), Node(part=part)]
    for for_now in (False, True):
        (packed,) = pack([nodes], False, for_now=for_now)
        assert (
            len({id(node.part) for node in packed.columns[0]} | {id(node.part.items) for node in packed.columns[0]})
            == 4
        )
    first, second = returned(*nodes)
    assert first.part is not second.part


def test_object_shared_by_columns_stays_shared():
    received([Node() for _ in range(20)])  # so Node has a definition, as a class that is used once has not
    part = [1]
    rows, packed = received([Node(part=part)], [[part]])
    assert type(packed[0]) is Rows
    assert rows[0][0].part is rows[0][1][0]


class CodeRuns(Node):
    """Copies of instances would run code."""

    def __del__(self):
        ENDS.append(1)


ENDS = []


def test_instances_with_finalizer_are_not_copied():
    one = CodeRuns(number=1)
    (packed,) = pack([[one] * 8], False)
    assert isinstance(packed, Entries)
    assert frozen([one])[1] is False
    assert ENDS == []


def changed_by_next_call(keep):
    """Return results of two calls of a batch, the second of which changes what `keep` finds of the first."""
    kept = []

    def call(number):
        if number:
            kept[0]().items.append(number)
            return None
        node = Node(items=[0])
        kept.append(keep(node))
        return node

    arrived, _ = payload.load(payload.dump(run_each(call, [[0, 1]])))
    return next(iter(arrived)).items


KEEPS = {
    "reference": lambda node: lambda: node,
    "weak reference": weakref.ref,
    "its dict": lambda node: functools.partial(lambda names: Node(items=names["items"]), vars(node)),
    "part of it": lambda node: functools.partial(lambda items: Node(items=items), node.items),
}


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
def test_result_that_call_keeps_is_copied(keep):
    assert changed_by_next_call(keep) == [0]


def test_result_without_other_references_is_not_copied():
    addresses = []

    def call(_):
        node = Node(items=[0])
        addresses.append((id(node), id(node.items)))
        return node

    results, _ = frozen(map(call, [1]))
    assert [(id(node), id(node.items)) for node in results] == addresses


def test_arrays_of_one_shape_travel_as_one():
    _, packed = received([np.arange(3.0) for _ in range(10)])
    assert isinstance(packed[0], ArrayColumn)


def test_later_change_of_argument_is_not_sent():
    numbers, nested, array = [1], [[1]], np.arange(3)
    packed = pack([[numbers]], False), pack([[nested]], False), pack([[array]], False)
    numbers.append(2)
    nested.append(2)
    array[:] = 9
    arrived = [next(iter(payload.load(plain.dump_plain(columns[0])))) for columns in packed]
    assert arrived[0] == [1]
    assert arrived[1] == [[1]]
    np.testing.assert_array_equal(arrived[2], [0, 1, 2])


def test_result_changed_by_later_call_arrives_unchanged():
    items, array = [[]], np.zeros(2)
    kept, _ = frozen([items, array])
    items.append(1)
    array[:] = 1
    assert_same(payload.load(dumped(kept[1:]))[0][0], np.zeros(2))
    assert next(iter(payload.load(dumped(kept))[0])) == [[]]


def fail_to_load():
    raise ValueError("not here")


class FailsToLoad:
    def __reduce__(self):
        return fail_to_load, ()


def test_unloadable_argument_fails_its_own_call():
    packed = pack([[[[1]], FailsToLoad()]], files_by_name=False)
    (arrived, _) = payload.load(payload.dump_call(1, print, packed, payload.BATCH))
    results, error = payload.load(payload.dump(run_each(lambda value: value, arrived)))
    assert list(results) == [[[1]]]
    assert error is not None


def test_argument_that_cannot_be_pickled_raises():
    with pytest.raises(SerializationError, match="lock"):
        pack([[[threading.Lock()]]], files_by_name=False)


def test_entries_keep_their_values_alive():
    value = Point(1, [2])
    (entries,) = pack([[value]], files_by_name=False)
    assert isinstance(entries, Entries)
    assert entries[0:1].values[0][0] is value


@pytest.mark.parametrize(
    "dtype",
    [">f8", np.dtype("i1,V3,i4,V1")[["f0", "f2"]], np.dtype("i1,f8", align=True)],
    ids=["swapped", "gaps", "aligned"],
)
def test_stacked_arrays_keep_their_dtype(dtype):
    arrays = [np.zeros(3, dtype), np.ones(3, dtype)]
    rows, _ = received(arrays)
    assert [array.dtype for (array,) in rows] == [np.dtype(dtype)] * 2
    assert [array.dtype.itemsize for array in returned(*arrays)] == [np.dtype(dtype).itemsize] * 2


@pytest.mark.parametrize(
    "pickles", [[], [b"one"], [b"once", b"one", b"on"], [b"", b"one"], [b"same"] * 3, [b"one", (b"two", b"buffer")]]
)
def test_entries_arrive_with_their_common_beginning(pickles):
    arrived = payload.load(plain.dump_plain(Entries(pickles)))
    again = payload.load(plain.dump_plain(arrived[: len(arrived)]))
    for entries in (arrived, again):
        assert [entries.prefix + one if type(one) is bytes else one for one in entries.entries] == pickles


def test_definition_travels_once_for_a_batch():
    namespace = {"__name__": "__main__", "noise": random.Random(1).randbytes(10_000)}
    exec("class Point:\n    text = noise\n    def __init__(self, x): self.x = x", namespace)
    points = [namespace["Point"](number) for number in range(100)]
    for _ in range(3):  # a class gets a definition when it is seen for the second time
        (column,) = pack([points], False)
        results = dumped(*frozen(points))
    for pickled in (plain.dump_plain((column, None)), results):
        assert [len(pickled), len(pickled[0]) < 20_000] == [1, True]
        arrived, _ = payload.load(pickled)
        assert [one.x for one in (arrived.columns[0] if type(arrived) is Rows else arrived)] == list(range(100))
