"""The pickles of the ranks' values, joined to that of their list."""

import pickle
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pympipool._core import ring
from pympipool.errors import SerializationError
from pympipool.serialization import payload
from support.answering_ranks import LIMIT_S, AnsweringRanks

LARGE = 3 * ring.RANKS_RING_CAPACITY

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300)
KEYS = st.sampled_from(
    ["energy", "steps", "hj.", b"h\x00"]
)  # occur again in a value, so that its pickle refers to its memo
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.builds(lambda value: [value, value], st.lists(inner))
        | st.builds(Fraction, st.integers(), st.integers(1, 9))
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=5))
def test_pickles_of_any_values_are_joined(values):
    ranks = AnsweringRanks(len(values))
    future = ranks.submit()
    for rank, value in enumerate(values):
        ranks.answer(rank, value)
    result = future.result(LIMIT_S)
    assert result == values
    assert list(map(repr, result)) == list(map(repr, values))  # also the types: 1, 1.0 and True are equal


def test_what_a_value_has_twice_stays_one_object():
    """What two values have does not become one object."""
    ranks = AnsweringRanks(3)
    future = ranks.submit()
    shared = [Fraction(1, 3)]
    for rank in range(3):
        ranks.answer(rank, (shared, shared, "a"))
    values = future.result(LIMIT_S)
    assert values == [(shared, shared, "a")] * 3
    assert all(first is second for first, second, _ in values)
    assert len({id(first) for first, _, _ in values}) == 3


def short_values():
    return ["a", "b"] * 200


def long_values():
    return [str(number) for number in range(100_000)]


def array():
    import numpy as np

    return np.arange(1000.0)


def large_array():
    import numpy as np

    return np.zeros(LARGE, dtype="u1")


def many_strings():
    return [[f"{number}" for number in range(400)], "repeated"]


def repeated():
    return {"a": ["repeated"] * 3, "b": ["repeated"]}


@pytest.mark.parametrize(
    "makers",
    [
        (array, long_values, array),  # buffers before and after those of a value that is unpickled by itself
        (repeated, long_values, repeated, long_values),  # the last one refers to a function behind entries of others
        (many_strings, repeated, short_values),  # entries above 255
        (large_array, array, long_values, large_array, short_values),
    ],
)
def test_values_of_different_forms_are_joined(makers):
    values = [make() for make in makers]
    ranks = AnsweringRanks(len(values))
    future = ranks.submit()
    threads = [threading.Thread(target=ranks.answer, args=item) for item in enumerate(values)]
    for thread in threads:
        thread.start()
    result = future.result(LIMIT_S)
    for thread in threads:
        thread.join()
    assert [payload.dump(value) for value in result] == [payload.dump(value) for value in values]


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps({"a": 1}, 2),  # no pickle of ours: it is unpickled by itself
        pickle.dumps("text" * 30, 0),
        pickle.dumps([["a", "b"]] * 3, 4),
    ],
)
def test_other_protocols_are_joined(pickled):
    ranks = AnsweringRanks(2)
    future = ranks.submit()
    for rank in range(2):
        ranks.answer_with(rank, pickled)
    assert future.result(LIMIT_S) == [pickle.loads(pickled)] * 2


@pytest.mark.parametrize(
    "broken",
    [b"", b"\x80\x05", b"\x80\x05.", b"\x80\x05X\xff\x00.", b"\x80\x05\x97.", b"\x80\x05C\x0eN.", b"\x80\x05\x8e\xff."],
)
@pytest.mark.parametrize("broken_rank", [0, 2])
def test_broken_pickle_fails_its_call_only(broken_rank, broken):
    ranks = AnsweringRanks(3)
    first, second = ranks.submit(), ranks.submit()
    for rank in range(3):
        ranks.answer_with(rank, broken if rank == broken_rank else payload.dump("good")[0])
    with pytest.raises(SerializationError, match="cannot unpickle"):
        first.result(LIMIT_S)
    for rank in range(3):
        ranks.answer(rank, rank)
    assert second.result(LIMIT_S) == [0, 1, 2]
