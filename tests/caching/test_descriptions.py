"""What describes the arguments of cached calls in the index: short texts, whatever the arguments are."""

import numpy as np
import pytest

from pympipool import Executor, get_cache_data
from pympipool.caching.calls import SHORT_LENGTH, _short


class RaisingShape:
    @property
    def shape(self):
        raise ZeroDivisionError


class LongShape:
    shape = "x" * 1000


class RaisingNumber(np.float64):
    @property
    def size(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        b"a" * 1000,
        "a" * 1000,
        RaisingShape(),
        LongShape(),
        RaisingNumber(1),
        np.zeros(9),
        np.zeros(9, [("a" * 99, "i4")]),
        [1],
        np.array(["a" * 1000]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_descriptions_are_short(value):
    assert 0 < len(_short(value)) <= SHORT_LENGTH


def test_arguments_that_cannot_be_shown_are_cached(directory):
    with Executor(backend="serial", cache_directory=directory) as exe:
        assert exe.submit(max, [1], [10**5000], key=len).result() == [1]
        exe.submit(id, RaisingShape()).result()
        exe.submit(pow, 10**5000, 1).result()
    assert [call["function"] for call in get_cache_data(directory)] == ["max", "id", "pow"]
