"""What is written opcode by opcode arrives as pickle would have it arrive: values, types, and which objects are the same."""

import pickle
import sys
from collections import OrderedDict, namedtuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from pympipool import share
from pympipool._core.pickle_writer import dump_small_call
from pympipool._core.plain_values import dump_plain_value
from pympipool.serialization import payload
from pympipool.serialization.plain import CALL_SCALARS, SCALARS, is_plain

assert is_plain(np.ones(1))  # arrays are known from here on

LONG = 100  # characters: as many are never written twice

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.text(min_size=LONG, max_size=3 * LONG)
    | st.binary(min_size=LONG, max_size=3 * LONG)
)
dtypes = st.sampled_from(["?", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", ">f8", ">i4"])
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
views = st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[::2] if a.ndim else a, lambda a: a[..., None]])


@st.composite
def arrays(draw):
    array = draw(views)(np.arange(64).astype(draw(dtypes))[: np.prod(shape := draw(shapes), dtype=int)].reshape(shape))
    array.flags.writeable = draw(st.booleans())
    return array


values = st.recursive(
    scalars | arrays(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
        | inner.map(lambda one: [one, (one, one)])
    ),
    max_leaves=15,
)


def loaded(parts):
    assert parts is not None
    return pickle.loads(parts[0], buffers=[bytearray(part) for part in parts[1:]])


def check_same(got, sent, pairs):
    """Check that two values are equal, of the same types, and contain the same object at the same places."""
    assert type(got) is type(sent)
    if isinstance(sent, (list, dict, np.ndarray)) or (isinstance(sent, tuple) and sent):
        assert pairs.setdefault(id(sent), got) is got
        assert pairs.setdefault(("got", id(got)), sent) is sent
    if isinstance(sent, np.ndarray):
        assert (got.dtype, got.shape, got.flags.writeable) == (sent.dtype, sent.shape, sent.flags.writeable)
        assert got.tobytes() == sent.tobytes()
    elif isinstance(sent, (list, tuple)):
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            check_same(one, other, pairs)
    elif isinstance(sent, dict):
        assert list(got) == list(sent)
        for key in sent:
            check_same(got[key], sent[key], pairs)
    else:
        assert repr(got) == repr(sent)


@given(st.lists(values, max_size=3).map(tuple), st.dictionaries(st.text(), values, max_size=2))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_calls_arrive_as_they_were(args, kwargs):
    parts = dump_small_call(args, kwargs, CALL_SCALARS)
    if parts is not None:
        got_args, got_kwargs = loaded(parts)
        check_same([got_args, got_kwargs], [args, kwargs], {})


@given(values)
@example(0)
@example(255)
@example(256)
@example(65535)
@example(65536)
@example(-1)
@example(2**31 - 1)
@example(2**31)
@example(-(2**31))
@example(2**63 - 1)
@example(-(2**63))
@example(2**63)
@example(10**100)
@example(-0.0)
@example(float("nan"))
@example(float("-inf"))
@example("ä" * 300)
@example("\ud800")
@example("\0")
@example("x" * (1 << 17))
@example(b"x" * ((1 << 16) + 1))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_results_arrive_as_they_were(value):
    parts = dump_plain_value(value, SCALARS)
    if parts is not None:
        check_same(loaded(parts), value, {})


def with_identities():
    inner, text, data, pair = [1], "x" * LONG, b"x" * LONG, (1, "two")
    array = np.arange(3.0)
    return [inner, inner, {"a": inner}, text, [text], data, (data,), pair, [pair, pair], array, {"b": array}, (), ()]


def test_the_same_object_twice_arrives_as_one():
    args = (with_identities(),)
    (got,), _ = loaded(dump_small_call(args, {}, SCALARS))
    check_same(got, args[0], {})
    assert got[3] is got[4][0]
    assert got[5] is got[6][0]


def test_objects_of_one_value_arrive_as_several():
    value = [[1], [1], np.ones(2), np.ones(2)]
    check_same(loaded(dump_plain_value(value, SCALARS)), value, {})


def test_argument_among_the_keywords_arrives_as_one():
    shared = {"x": 1}
    (got,), kwargs = loaded(dump_small_call((shared,), {"same": shared}, SCALARS))
    assert got is kwargs["same"]


def test_lists_and_dicts_contain_themselves():
    endless = [1]
    endless.append(endless)
    knot = {"list": endless}
    knot["dict"] = knot
    (got_list, got_dict), _ = loaded(dump_small_call((endless, knot), {}, SCALARS))
    assert got_list[1] is got_list
    assert got_dict["dict"] is got_dict
    assert got_dict["list"] is got_list


def test_tuple_that_contains_itself_is_left_to_pickle():
    inner = []
    knot = (inner,)
    inner.append(knot)
    assert dump_small_call((knot,), {}, SCALARS) is None
    got = loaded(payload.dump(knot))
    assert got[0][0] is got


@pytest.mark.parametrize("count", [64, 65, 255, 256, 257, 300])
def test_many_objects_that_occur_twice(count):
    several = [[i] for i in range(count)]
    value = [several, *several]
    parts = dump_plain_value(value, SCALARS) or [pickle.dumps(value)]
    check_same(loaded(parts), value, {})


def test_deep_and_large_values_are_left_to_pickle():
    deep = 1
    for _ in range(20):
        deep = [deep]
    for value in (deep, [0] * 257, [[0] * 128, [0] * 129], dict.fromkeys(range(257), 0)):
        assert dump_small_call((value,), {}, SCALARS) is None
    assert dump_small_call(([0] * 255,), {}, SCALARS) is not None


class Int(int):
    pass


class Str(str):
    __slots__ = ()


class Array(np.ndarray):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Int(1),
        Str("a"),
        type("Float", (float,), {})(1.0),
        type("Bytes", (bytes,), {})(b"a"),
        type("List", (list,), {})([1]),
        namedtuple("Point", "x y")(1, 2),
        OrderedDict(a=1),
        object(),
        len,
        1j,
        bytearray(b"a"),
        {1},
        frozenset([1]),
        2**63,
        "\udcff",
        np.ones(3).view(Array),
        np.ones(0),
        np.ones((2, 3)).T,
        np.ones(6)[::2],
        np.ones(3, ">f8"),
        np.ones(3, np.dtype(float, metadata={"unit": "eV"})),
        np.ones(3, "M8[s]"),
        np.array([print]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_left_to_others(value):
    assert dump_small_call((1, [value]), {}, SCALARS) is None
    assert dump_small_call((), {"key": value}, SCALARS) is None


@pytest.mark.parametrize("array", [np.array(1.5), np.ones((1,) * 20), np.arange(6)[2:4], np.ones((2, 0, 3))[:, :0]])
def test_odd_shapes(array):
    parts = dump_small_call((array,), {}, SCALARS)
    assert (parts is None) == (array.size == 0)
    if parts is not None:
        check_same(loaded(parts)[0][0], array, {})


@pytest.mark.parametrize("count", [2047, 2048, 100_000])
@pytest.mark.parametrize("is_writable", [True, False])
def test_large_arrays_leave_the_pickle_as_views(count, is_writable):
    array = np.arange(float(count))
    array.flags.writeable = is_writable
    parts = dump_small_call((array, [array, array[:1]]), {}, SCALARS)
    assert len(parts) == 1 + (count >= 2048)
    assert all(part.obj is array and part.readonly != is_writable for part in parts[1:])
    (got, (again, first)), _ = loaded(parts)
    assert got is again
    assert np.array_equal(got, array)
    assert np.array_equal(first, array[:1])
    assert got.flags.writeable == is_writable


def test_handles_are_written_only_where_they_are_wanted():
    table = share({"x": np.arange(3.0)})
    parts = dump_small_call((1, table, [table]), {"key": table}, CALL_SCALARS)
    (_, got, (again,)), kwargs = loaded(parts)
    assert got is again is kwargs["key"] is table.value
    assert dump_small_call((table,), {}, SCALARS) is None
    assert dump_plain_value(table, SCALARS) is None


def test_handle_without_object_is_left_to_pickle():
    broken = type(share(1)).__new__(type(share(1)))
    assert dump_small_call((broken,), {}, CALL_SCALARS) is None


def test_runs_no_code_of_a_metaclass():
    class Meta(type):
        def __hash__(cls):
            raise AssertionError("called")

        def __eq__(cls, other):
            raise AssertionError("called")

    assert dump_small_call((Meta("Kind", (), {})(),), {}, SCALARS) is None


def test_keeps_no_reference():
    value = [object, 1.5]
    kept = [1, [2, 3], {"x": value}, np.ones(2), "x" * LONG]
    before = [sys.getrefcount(one) for one in kept]
    for _ in range(5):
        dump_small_call((kept, 1.5), {}, SCALARS)
        dump_small_call((kept[1:2], kept[3:]), {"y": kept[3]}, SCALARS)
    assert [sys.getrefcount(one) for one in kept] == before
