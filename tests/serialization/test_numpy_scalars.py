"""Scalars of numpy arrive with their type, dtype and bits, in calls and in results."""

from __future__ import annotations

import numpy as np
import pytest

from pympipool._core.pickle_writer import dump_small_call
from pympipool.serialization import payload
from pympipool.serialization.plain import CALL_SCALARS, is_plain

assert is_plain(np.ones(1))  # numpy's types are known from here on

NUMBERS = [np.dtype(code).type(7) for code in "?bBhHiIlLqQefdgFDG"]
SPECIAL = [
    np.bool_(False),
    np.int8(-128),
    np.uint64(2**64 - 1),
    np.float16("nan"),
    np.float32(-0.1),
    np.float64("-inf"),
    np.longdouble(1) / 3,
    np.complex128(complex(0.0, -0.0)),
    np.datetime64("2020-01-01T12", "ns"),
    np.datetime64("2020", "Y"),
    np.datetime64("NaT", "s"),
    np.timedelta64(5, "25s"),
    np.timedelta64("NaT", "D"),
]
ODD = [
    np.str_("text"),
    np.bytes_(b"data"),
    np.void(b"abc"),
    np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")])[0],
]


def assert_same(arrived, sent):
    assert type(arrived) is type(sent)
    assert arrived.dtype == sent.dtype
    if isinstance(sent, np.longdouble | np.clongdouble):
        assert arrived == sent  # there are bytes of no meaning in them
    else:
        assert np.asarray(arrived).tobytes() == np.asarray(sent).tobytes()


@pytest.mark.parametrize("value", [*NUMBERS, *SPECIAL, *ODD], ids=lambda value: f"{type(value).__name__} {value}")
def test_scalar_arrives_as_it_was(value):
    assert_same(payload.load(payload.dump(value)), value)
    (first, (second,)), kwargs = payload.load(payload.dump_call(1, print, (value, (value,)), {"key": value}))
    for arrived in (first, second, kwargs["key"]):
        assert_same(arrived, value)


@pytest.mark.parametrize("value", [*NUMBERS, *SPECIAL], ids=lambda value: f"{type(value).__name__} {value}")
def test_scalar_needs_no_pickler(value):
    assert dump_small_call((value,), {}, CALL_SCALARS) is not None
    assert len(payload.dump(value)[0]) < 60  # numpy's own pickles have more than 100 bytes


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_scalar_is_left_to_numpy(value):
    assert dump_small_call((value,), {}, CALL_SCALARS) is None


def test_subclass_of_scalar_is_left_to_numpy():
    class Length(np.float64):
        pass

    assert dump_small_call((Length(1.5),), {}, CALL_SCALARS) is None
