"""Arrays of all types travel out of band, and memmaps as a file name where that is right."""

from __future__ import annotations

import copyreg
import os

import numpy as np
import pytest

from pympipool import Executor
from pympipool.errors import SerializationError
from pympipool.serialization.arrays import BY_NAME_BYTES_MIN
from pympipool.serialization.payload import dump, dump_call, load

COUNT = BY_NAME_BYTES_MIN // 8


class Labelled(np.ndarray):
    """A subclass with numpy's own pickle."""


class Counted(np.ndarray):
    """A subclass with a pickle of its own."""

    def __reduce__(self):
        rebuild, arguments, state = super().__reduce__()
        return rebuild, arguments, (*state, self.count)

    def __setstate__(self, state):
        *state, self.count = state
        super().__setstate__(tuple(state))


MASKED = np.ma.masked_array(np.arange(COUNT), mask=np.arange(COUNT) % 3 == 0, fill_value=-7)


LARGE_ARRAYS = pytest.mark.parametrize(
    "array",
    [
        np.arange(COUNT).astype("datetime64[s]"),
        np.arange(COUNT).astype("timedelta64[ms]").reshape(-1, 4).T,
        np.zeros(COUNT, [("x", float), ("y", np.int8, 3)]),
        np.rec.array(np.zeros(COUNT, [("x", float), ("t", "M8[D]")])),
        np.ones((64, COUNT // 64)).view(np.matrix),
        np.arange(COUNT, dtype=float).view(Labelled),
        np.arange(2 * COUNT)[::2],
        np.arange(COUNT).reshape(2, 2, -1).transpose(1, 0, 2),
        MASKED,
        np.ma.masked_array(np.ones(COUNT)),
        np.ma.masked_array(np.arange(COUNT).astype("M8[s]"), mask=np.arange(COUNT) % 2 == 0, hard_mask=True),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype.char}",
)


def assert_same(arrived, array):
    assert type(arrived) is type(array)
    assert (arrived.dtype, arrived.shape) == (array.dtype, array.shape)
    assert arrived.flags.writeable == array.flags.writeable
    assert arrived.tobytes() == array.tobytes()
    if isinstance(array, np.ma.MaskedArray):
        assert np.array_equal(np.ma.getmaskarray(arrived), np.ma.getmaskarray(array))
        assert (str(arrived.fill_value), arrived.hardmask) == (str(array.fill_value), array.hardmask)
        arrived[1] = np.ma.masked
        assert arrived.mask[1]


def sent(array, *others):
    """Return the array as an argument arrives, and as a part of a list does; neither may be copied into the pickle."""
    for value in (array, [array, len, *others]):
        parts = dump_call(1, print, (value,), {}, True)
        assert len(parts[0]) < 10_000
        (arrived,), _ = load([parts[0], *map(bytearray, parts[1:])])
        yield arrived if value is array else arrived[0]


@LARGE_ARRAYS
def test_all_large_arrays_travel_out_of_band(array):
    for arrived in sent(array):
        assert_same(arrived, array)
    parts = dump(array, "the result")
    assert len(parts) > 1
    assert_same(load([parts[0], *map(bytearray, parts[1:])]), array)


@LARGE_ARRAYS
def test_small_arrays_of_all_types_arrive_unchanged(array):
    small = array[:3]
    for arrived in sent(small):
        assert_same(arrived, small)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("kind", ["?", "<i4", ">i4", "u8", "f2", "<f8", ">f8", "g", "c8", "O"])
def test_arrays_of_numbers_arrive_unchanged(kind, writable):
    for array in (np.array(-1), np.arange(3), np.ones((2, 3)), np.ones((2, 3)).T, np.zeros((0, 2)), np.ones(COUNT)):
        array = array.astype(kind)  # noqa: PLW2901
        array.flags.writeable = writable
        arrived = load([part if i == 0 else bytearray(part) for i, part in enumerate(dump([array, len]))])[0]
        assert (arrived.dtype.str, arrived.shape) == (array.dtype.str, array.shape)
        assert arrived.flags.writeable == writable or (not array.size or kind == "O")
        assert np.array_equal(arrived, array)


def test_loaders_travel_by_number():
    """A name is imported each time that it is unpickled."""
    pickled = dump([np.arange(3), len])[0]
    assert b"_array" not in pickled
    copyreg.clear_extension_cache()
    assert np.array_equal(load([pickled])[0], np.arange(3))


def test_read_only_arrays_arrive_read_only():
    array = np.arange(COUNT).astype("M8[s]")
    array.flags.writeable = False
    assert not any(arrived.flags.writeable for arrived in sent(array))


def test_repeated_arrays_arrive_as_one():
    array = np.arange(COUNT).astype("M8[s]")
    for value in ((array, array), ([array, len, array],)):
        parts = dump_call(1, print, value, {})
        assert len(parts) == 2
        args, _ = load([parts[0], *map(bytearray, parts[1:])])
        assert args[0] is args[1] if len(args) == 2 else args[0][0] is args[0][2]


def test_subclass_with_its_own_pickle_keeps_state():
    array = np.arange(9.0).view(Counted)
    array.count = 5
    for value in (array, [array]):
        arrived = load(dump(value))
        arrived = arrived[0] if isinstance(value, list) else arrived
        assert (arrived.count, arrived.tolist()) == (5, array.tolist())


def test_registered_reducer_of_a_subclass_is_used(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Labelled, lambda array: (list, (array.tolist(),)))
    assert load(dump(np.arange(2).view(Labelled))) == [0, 1]


def test_arrays_of_strings_without_limit_arrive():
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 1 has no StringDType")
    array = np.array(["a", "long " * 9000], dtype=np.dtypes.StringDType())
    for arrived in (load(dump(array)), load(dump([array, len]))[0]):
        assert arrived.tolist() == array.tolist()


# ---- memmaps ----


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "numbers with a space"
    np.arange(4 * COUNT, dtype=float).tofile(file)
    return file


def by_name(array):
    """Return True if none of the array's data is in the parts of a call."""
    return sum(len(bytes(part)) for part in dump_call(1, print, (array,), {}, True)) < 2000


@pytest.mark.parametrize(
    "cut",
    [
        lambda a: a,
        lambda a: a[100:],
        lambda a: a[5:][::-1],
        lambda a: a.reshape(-1, 2)[:, 1],
        lambda a: a.reshape(2, -1).T,
        lambda a: a.view("M8[s]"),
    ],
    ids=["whole", "slice", "reversed", "column", "transposed", "view"],
)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_memmaps_travel_as_file_name(path, cut, mode):
    array = cut(np.memmap(path, float, mode, offset=16))
    assert by_name(array)
    for arrived in sent(array):
        assert_same(arrived, array)
        assert (arrived.filename, arrived.strides) == (array.filename, array.strides)


def test_memmap_of_a_new_file_is_not_emptied(tmp_path):
    array = np.memmap(tmp_path / "new", float, "w+", shape=COUNT)
    array[:] = 3
    assert by_name(array)
    for arrived in sent(array):
        assert_same(arrived, array)


def test_writing_an_argument_leaves_the_file_unchanged(path):
    array = np.memmap(path, float, "r+")
    for arrived in sent(array):
        arrived[:] = -1
    assert array[1] == np.fromfile(path)[1] == 1


def test_private_changes_of_a_memmap_travel(path):
    array = np.memmap(path, float, "c")
    array[0] = 99
    assert not by_name(array)
    for arrived in sent(array):
        assert_same(arrived, array)


@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize(
    "change", [os.unlink, lambda path: np.zeros(2 * COUNT).tofile(f"{path}2") or os.replace(f"{path}2", path)]
)
def test_memmap_of_a_former_file_travels_itself(path, change, looked_up):
    array = np.memmap(path, float, "r")
    if looked_up:
        assert by_name(array)
    change(path)
    assert not by_name(array)
    for arrived in sent(array):
        assert_same(arrived, array)


@pytest.mark.parametrize("change", [os.unlink, lambda path: os.truncate(path, 100)])
def test_file_that_vanished_after_submit_is_named(path, change):
    parts = dump_call(1, print, (np.memmap(path, float, "r"),), {}, True)
    change(path)
    with pytest.raises(SerializationError, match=r"numbers with a space.* of a numpy\.memmap .*: keep it"):
        load(parts)


def test_small_memmaps_and_results_are_copied(path):
    array = np.memmap(path, float, "r")
    assert not by_name(array[: COUNT - 1])
    assert len(dump(array)) == 2
    assert len(dump_call(1, print, (array,), {})) == 2


def test_memory_computed_from_a_memmap_is_copied(path):
    array = np.memmap(path, float, "r")
    for computed in (array + 1, np.sort(array)):
        assert not by_name(computed)
        for arrived in sent(computed):
            assert_same(arrived, computed)


def file_and_sum(array, other):
    return array.filename, float(array.sum()), float(other["a"].sum())


def test_workers_map_the_file_of_a_memmap(path):
    array = np.memmap(path, float, "r")
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        assert exe.submit(file_and_sum, array, {"a": array}).result() == (path, array.sum(), array.sum())
