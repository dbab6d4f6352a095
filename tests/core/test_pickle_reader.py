"""What is read without an unpickler is what pickle would read; all else is left to pickle."""

import pickle
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from pympipool._core.pickle_reader import load_small_value
from pympipool.serialization import payload

scalars = (
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
        | inner.map(lambda one: [one, one])
    ),
    max_leaves=15,
)


def read(value):
    (pickled,) = payload.dump(value)
    return load_small_value(pickled)


@given(values)
@example([-1, 255, 256, 65535, 65536, -(1 << 31), 1 << 31, -(1 << 63), (1 << 63) - 1, 1 << 63])
@example("\ud800")
def test_values_are_read_as_by_pickle(value):
    found = read(value)
    assert found is ... or (found == value and repr(found) == repr(value))


@pytest.mark.parametrize(
    "value",
    [
        7,
        -1.5,
        "text",
        (),
        [],
        {},
        (1,),
        (1, 2, 3, 4),
        [1, [2.0, None]],
        {"a": {"b": (True,)}},
        ((3, "x"), {"key": [0]}),
    ],
)
def test_small_builtin_values_need_no_unpickler(value):
    assert read(value) == value


@pytest.mark.parametrize("value", [b"bytes", {1}, 1j, "x" * 300, list(range(100)), 1 << 70, print, [[[]] * 2]])
def test_other_values_are_left_to_pickle(value):
    assert read(value) is ...
    assert load_small_value(pickle.dumps(value)) is ...
    assert payload.load(payload.dump(value)) == value


@pytest.mark.parametrize(
    "pickled",
    [
        *(bytearray(b"\x80\x05N."), b"", b"\x80\x05.", b"N.", b"\x80\x05NN.", b"\x80\x05(N."),
        b"\x80\x05N(\x85t\x86.",  # takes a value from before the mark
        b"\x80\x05](}(e\x86.",
        b"\x80\x05]((e\x85.",
    ],
)
def test_other_bytes_are_left_to_pickle(pickled):
    assert load_small_value(pickled) is ...


@given(st.binary(max_size=40), values, st.randoms())
def test_damaged_pickles_are_read_or_left(noise, value, random):
    """Nothing is read beyond the end, and the stack has no values that were not put there."""
    pickled = bytearray(payload.dump(value)[0][:500])
    for byte in noise:
        pickled[random.randrange(len(pickled))] = byte
    for damaged in (bytes(pickled), b"\x80\x05" + noise + b".", b"\x80\x05((NN" + noise + b"teu."):
        try:
            load_small_value(damaged)
        except (TypeError, UnicodeDecodeError) as error:
            assert "unhashable" in str(error) or "utf-8" in str(error)


def test_no_memory_of_reading_is_left():
    for pickled in (payload.dump(([1.5, "text"], {2: None}))[0], b"\x80\x05(K\x01](K\x02K\x03e}\x8f."):
        load_small_value(pickled)
        before = sys.getallocatedblocks()
        for _ in range(1000):
            load_small_value(pickled)
        assert sys.getallocatedblocks() - before < 100
