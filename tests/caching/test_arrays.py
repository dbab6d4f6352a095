"""Arrays of all kinds as results: they are the same with and without a cache, when they are made and when they are read."""

import numpy as np
import pytest

from pympipool import Executor

ITEMS = 10_000


class Tagged(np.ndarray):
    """A subclass with an attribute that its pickle has."""

    def __array_finalize__(self, source):
        self.unit = getattr(source, "unit", "")

    def __reduce__(self):
        function, arguments, state = super().__reduce__()
        return function, arguments, (state, self.unit)

    def __setstate__(self, state):
        self.unit = state[1]
        super().__setstate__(state[0])


def tagged():
    values = np.arange(ITEMS).view(Tagged)
    values.unit = "m"
    return values


def read_only():
    values = np.arange(ITEMS)
    values.flags.writeable = False
    return values


def one_twice():
    values = np.arange(ITEMS)
    return [values, values]


def view_and_base():
    values = np.arange(ITEMS)
    return [values[:100], values]


KINDS = {
    "plain": lambda: np.arange(ITEMS),
    "Fortran's order": lambda: np.asfortranarray(np.arange(ITEMS).reshape(100, -1)),
    "transposed": lambda: np.arange(ITEMS).reshape(20, -1).T,
    "strided": lambda: np.arange(2 * ITEMS)[::2],
    "reversed": lambda: np.arange(ITEMS)[::-1],
    "part of rows": lambda: np.arange(2 * ITEMS).reshape(200, -1)[:, :50],
    "broadcast": lambda: np.broadcast_to(np.arange(100), (100, 100)),
    "read-only": read_only,
    "without items": lambda: np.zeros((1000, 0, 3)),
    "without axes": lambda: np.array(3.0),
    "objects": lambda: np.array([[0] * (n % 5) for n in range(ITEMS)], dtype=object),
    "structured": lambda: np.ones(ITEMS, dtype=[("a", "i4"), ("b", "U5")]),
    "record": lambda: np.ones(ITEMS, dtype=[("a", "i4"), ("b", "f8")]).view(np.recarray),
    "masked": lambda: np.ma.masked_less(np.arange(ITEMS), 100),
    "subclass": tagged,
    "other order of bytes": lambda: np.arange(ITEMS).astype(">i8"),
    "dates": lambda: np.arange(ITEMS).astype("M8[D]"),
    "text": lambda: np.array([str(n) for n in range(ITEMS)]),
    "one array twice": one_twice,
    "a view and its base": view_and_base,
}


def make(kind):
    return KINDS[kind]()


def described(value):
    """Return all that can tell two arrays from each other."""
    if isinstance(value, list):
        shares = isinstance(value[0], np.ndarray) and np.shares_memory(*value)
        return [*map(described, value), value[0] is value[1], shares]
    flags = value.flags.c_contiguous, value.flags.f_contiguous, value.flags.writeable
    others = str(getattr(value, "mask", None)), getattr(value, "unit", None)
    return type(value), value.dtype, value.shape, value.strides, flags, others, value.tolist()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results of each kind: without a cache, of the first run, and of the second."""
    folder, found = tmp_path_factory.mktemp("cache"), []
    for directory in (None, folder, folder):
        with Executor(max_workers=1, block_allocation=True, cache_directory=directory) as exe:
            futures = {kind: exe.submit(make, kind) for kind in KINDS}
            assert len(found) < 2 or all(future.done() for future in futures.values())
            found.append({kind: future.result() for kind, future in futures.items()})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_cached_arrays_are_as_without_a_cache(results, kind):
    without, first, second = (described(one[kind]) for one in results)
    assert first == without
    assert second == without


def test_values_of_two_readers_share_no_memory(tmp_path):
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
        exe.submit(make, "plain").result()[:] = 7
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
        one, other = (exe.submit(make, "plain").result() for _ in range(2))
        one[:] = 7
        np.testing.assert_array_equal(other, np.arange(ITEMS))
        np.testing.assert_array_equal(exe.submit(make, "plain").result(), np.arange(ITEMS))
