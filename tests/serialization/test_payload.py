"""Values, arrays and calls arrive unchanged; errors name the value that cannot be pickled."""

from __future__ import annotations

import collections
import fractions
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool._core.instances import IN_BAND_BELOW_BYTES, OUT_OF_BAND_MAX
from pympipool.errors import SerializationError
from pympipool.serialization import by_value, payload, plain
from pympipool.serialization.payload import (
    dump,
    dump_call,
    load,
)
from pympipool.serialization.plain import OUT_OF_BAND_BYTES_MIN, Pickled
from support.pickling import round_trip

# ---- values ----

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


values = st.recursive(
    scalars | st.fractions() | st.decimals(allow_nan=False) | st.dates() | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(scalars, inner)
        | st.sets(scalars)
        | st.frozensets(scalars)
        | st.lists(inner).map(collections.deque)
    ),
)


@given(values)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_arrives_equal_and_of_its_type(value):
    arrived = round_trip(value)
    assert arrived == value
    assert type(arrived) is type(value)


@given(values, st.dictionaries(st.text(), values, max_size=2))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_call_arrives_with_its_arguments(value, kwargs):
    assert load(dump_call(7, max, (value, 1), kwargs)) == ((value, 1), kwargs)
    assert load(dump_call(0, max, (value, 1), kwargs)) == (max, (value, 1), kwargs)


def test_shared_references_and_cycles_are_kept():
    shared = [1]
    circle = [shared, shared]
    circle.append(circle)
    arrived = round_trip(circle)
    assert arrived[0] is arrived[1]
    assert arrived[2] is arrived


# ---- arrays and buffers ----


@pytest.mark.parametrize("count", [0, 1, 10, IN_BAND_BELOW_BYTES // 8 - 1, IN_BAND_BELOW_BYTES // 8, 100_000])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"a": [a]}, lambda a: (a, fractions.Fraction(1, 3))])
def test_arrays_of_all_sizes_arrive_writable_and_private(count, wrap):
    array = np.arange(count, dtype=float)
    arrived = find_array(round_trip(wrap(array)))
    assert np.array_equal(arrived, array)
    assert arrived.flags.writeable
    arrived += 1
    assert np.array_equal(array, np.arange(count))


def find_array(value):
    while not isinstance(value, np.ndarray):
        value = value["a"] if isinstance(value, dict) else value[0]
    return value


KINDS_OF_ARRAYS = pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).astype(kind).reshape(2, 3) for kind in "?bhilqBHILQefdgFDG"),
        np.arange(7.0),
        np.zeros(3, np.dtype(float, metadata={"unit": "eV"})),
        np.asfortranarray(np.arange(30_000.0).reshape(100, 300)),
        np.arange(60_000.0)[::2],
        np.arange(60_000.0).reshape(200, 300).T[::-1],
        np.array([["a", "bc"]] * 9000),
        np.zeros(9000, dtype=[("x", float), ("y", np.int8, 3)]),
        np.arange(20_000, dtype=">i4"),
        np.array(["2020-01-01"], dtype="datetime64[s]").repeat(9000),
        np.array([{1: 2}, None, "x"] * 5, dtype=object),
        np.array(3.5),
        np.zeros((0, 7)),
        np.ma.masked_array(np.arange(9000.0), mask=np.arange(9000) % 2 == 0),
        np.rec.array([(1, 2.0)], dtype=[("x", int), ("y", float)]),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype.char}-{a.shape}",
)


@KINDS_OF_ARRAYS
def test_arrays_of_every_kind_arrive_unchanged(array):
    assert_same_array(round_trip(array), array)
    assert_same_array(round_trip((1, array))[1], array)
    assert_same_array(round_trip([array])[0], array)


@KINDS_OF_ARRAYS
def test_array_arguments_of_every_kind_arrive_unchanged(array):
    for number in (0, 1):
        parts = dump_call(number, print, (array, 2, array), {})
        args, _ = load([bytearray(part) for part in parts])[-2:]
        assert_same_array(args[0], array)
        assert args[1] == 2
        assert args[2] is args[0]


def test_repeated_array_arrives_as_one_object():
    array = np.arange(5.0)
    args, kwargs = load(dump_call(1, print, (array, [array], {"a": (array,)}), {"b": array}))
    assert args[0] is args[1][0] is args[2]["a"][0] is kwargs["b"]
    first, second = round_trip((array, array))
    assert first is second
    first += 1
    assert second[0] == 1
    assert array[0] == 0


def assert_same_array(arrived, array):
    assert type(arrived) is type(array)
    assert arrived.flags.writeable
    # numpy 2.2 replaces None by {} when it unpickles datetimes
    assert dict(arrived.dtype.metadata or {}) == dict(array.dtype.metadata or {})
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    assert arrived.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous
    np.testing.assert_array_equal(arrived, array)


def test_small_arrays_stay_inside_the_pickle():
    assert len(dump([np.zeros(IN_BAND_BELOW_BYTES // 8 - 1)] * 3)) == 1
    assert len(dump([np.zeros(IN_BAND_BELOW_BYTES // 8) for _ in range(3)])) == 4


@pytest.mark.parametrize("size", [0, 1, OUT_OF_BAND_BYTES_MIN - 1, OUT_OF_BAND_BYTES_MIN, 10 * OUT_OF_BAND_BYTES_MIN])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_of_any_size_arrive_unchanged(kind, size):
    value = kind(b"abcdefg" * (size // 7 + 1))[:size]
    for arrived in (round_trip(value), round_trip([value])[0]):
        assert type(arrived) is kind
        assert arrived == value
    (args, kwargs) = load(dump_call(1, print, (value, 1), {"end": value}))
    assert (args, kwargs) == ((value, 1), {"end": value})
    assert type(args[0]) is kind


def test_large_bytes_travel_as_views_without_copy():
    value = bytes(OUT_OF_BAND_BYTES_MIN)
    pickled, view = dump(value)
    assert len(pickled) < 100
    assert np.shares_memory(np.frombuffer(view, "u1"), np.frombuffer(value, "u1"))
    assert len(dump_call(1, print, (1, value), {})) == 2
    assert len(dump(value[:-1])) == 1


def test_repeated_large_bytes_travel_once():
    value = bytes(OUT_OF_BAND_BYTES_MIN)
    for parts in (dump((value, 1, value)), dump_call(1, print, (value, 1, value), {})):
        assert len(parts) == 2
        arrived = load([bytearray(part) for part in parts])
        first, _, second = arrived if len(arrived) == 3 else arrived[0]
        assert first is second
        assert first == value


def test_bytearray_may_change_after_pickling():
    value = bytearray(10 * OUT_OF_BAND_BYTES_MIN)
    parts = dump(value)
    value[0] = 1
    assert load(parts)[0] == 0


def test_large_arrays_travel_as_views_without_copy():
    array = np.zeros(100_000)
    pickled, view = dump(array)
    array[3] = 7  # before it is sent
    assert len(pickled) < 1000
    assert np.frombuffer(view)[3] == 7
    assert (view.ndim, view.format, view.nbytes) == (1, "B", array.nbytes)


def test_loaded_array_uses_given_memory_unless_read_only():
    pickled, view = dump(np.arange(100_000.0))
    memory = bytearray(view)
    assert np.shares_memory(load([pickled, memory]), np.frombuffer(memory))
    arrived = load([pickled, bytes(view)])
    assert arrived.flags.writeable


def test_a_read_only_array_arrives_read_only():
    for count in (10, 100_000):
        array = np.zeros(count)
        array.flags.writeable = False
        assert not round_trip(array).flags.writeable


def test_number_of_out_of_band_buffers_is_limited():
    arrays = [np.full(IN_BAND_BELOW_BYTES // 8, number, dtype=float) for number in range(OUT_OF_BAND_MAX + 50)]
    parts = dump(arrays)
    assert len(parts) == 1 + OUT_OF_BAND_MAX
    arrived = load([parts[0], *map(bytearray, parts[1:])])
    assert [array[0] for array in arrived] == list(range(len(arrays)))
    assert all(array.flags.writeable for array in arrived)


def test_pickling_does_not_import_numpy():
    code = "import sys; from pympipool.serialization.payload import *; load(dump([1, print])); print('numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"


def test_numpy_imported_late_is_noticed(monkeypatch):
    known = {int}
    monkeypatch.setattr(plain, "_array_type", None)
    for module in (plain, payload):
        monkeypatch.setattr(module, "SCALARS", known)
    monkeypatch.setattr(by_value, "dump_parts", None)
    assert round_trip(np.float64(2)) == 2
    assert round_trip(np.arange(2)).tolist() == [0, 1]


@pytest.mark.parametrize("value", [5, "text", [np.arange(50_000.0), np.arange(5.0)]])
def test_pickled_value_becomes_the_value_when_loaded(value):
    pickled = Pickled([bytearray(part) for part in dump(value)])
    (arrived,), kwargs = round_trip(((pickled,), {}))
    assert repr(arrived) == repr(value)
    assert kwargs == {}


# ---- errors ----


def test_unpicklable_argument_error_names_argument_and_remedy():
    with pytest.raises(SerializationError) as caught:
        dump_call(0, divmod, (1, threading.Lock()), {})
    text = str(caught.value)
    for words in ("argument 2 of divmod()", "_thread.lock", "<unlocked", "TypeError", "inside the function"):
        assert words in text
    assert isinstance(caught.value.__cause__, TypeError)


def test_unpicklable_keyword_argument_is_named():
    with pytest.raises(SerializationError, match=r"argument 'file' of print\(\)"):
        dump_call(3, print, (1,), {"file": [sys.stdout, threading.Lock()]})


def test_unpicklable_function_is_named():
    lock = threading.Lock()

    def hold():
        return lock

    with pytest.raises(SerializationError, match=r"the function .*hold\(\)"):
        dump_call(0, hold, (), {})


def test_unpicklable_value_with_failing_repr_is_described():
    class Bad:
        def __repr__(self):
            raise ValueError("no repr")

        def __reduce__(self):
            raise KeyError("no pickle")

    with pytest.raises(SerializationError, match=r"Bad.*KeyError: 'no pickle'"):
        dump(Bad(), "the result of f()")


def test_too_deeply_nested_value_raises_serialization_error():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for attempt in (lambda: dump(deep), lambda: dump_call(1, max, (deep,), {})):
        with pytest.raises(SerializationError, match=r"[Rr]ecursion"):
            attempt()
    while deep:  # taken apart here: its destruction recurses too
        deep = deep[0]


class _Unloadable:
    def __reduce__(self):
        return divmod, (1, 0)


def test_unpickling_error_names_value_and_reason():
    with pytest.raises(
        SerializationError, match=r"cannot unpickle the result of f\(\).*ModuleNotFoundError.*no_such_m.*importable"
    ):
        load([pickle.dumps(1).replace(b"K\x01", b"cno_such_module\nx\n")], "the result of f()")
    with pytest.raises(SerializationError, match=r"ZeroDivisionError.*have it define __reduce__"):
        load([pickle.dumps(_Unloadable())])
    with pytest.raises(SerializationError, match="buffer size"):
        load([dump(np.zeros(100_000))[0], bytearray(1)])
    with pytest.raises(SerializationError):
        load([b"garbage"])


def test_keyboard_interrupt_while_pickling_propagates():
    class Slow:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump(Slow())
