"""Shared arrays are ordinary arrays of numpy, except that calls get them by their place in memory."""

import copy
import gc
import os
import pickle
import random
import resource

import numpy as np
import pytest

from pympipool import serialization, share, shared_array
from pympipool._core.shared_memory import ArrayMemory
from pympipool._core.shared_ranges import shared_place
from pympipool.serialization import describe_shared, has_shared, payload, shared
from pympipool.serialization.memory_copies import MemoryCopy

DTYPES = ["?", "i2", "f4", "c16", ">f8", "M8[s]", "m8[D]", "S7", "U3", "V5", [("a", "i4"), ("b", "f8", (2, 2))]]


def call_parts(*args):
    return payload.dump_call(1, len, args, {})


def as_argument(array):
    """Return what a call gets for an array; in this process it is in the same memory."""
    (argument,), _ = payload.load(call_parts(array))
    return argument


def is_in(view, array):
    return view.size == 0 or np.may_share_memory(view, array)


def test_each_of_many_arrays_is_recognized():
    """They are looked up by address; some end before others, in any order."""
    arrays = [shared_array(3, fill=number) for number in range(200)]
    for number in random.Random(1).sample(range(200), 100):
        arrays[number] = None
    arrays += [shared_array(3, fill=number) for number in range(200, 250)]
    assert shared_place(np.zeros(3)) is None
    places = {}
    for number, array in enumerate(arrays):
        if array is not None:
            key, position = shared_place(array[2:])
            assert position == 16
            places[key] = number
            assert as_argument(array[::-1]).tolist() == [number] * 3
            assert is_in(as_argument(array[1:]), array)
    assert len(places) == 150


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_new_array_is_zero_and_travels_by_place(dtype):
    array, zeros = shared_array((3, 4), dtype), np.zeros((3, 4), dtype)
    assert (type(array), array.dtype, array.shape, array.strides) == (
        np.ndarray,
        zeros.dtype,
        zeros.shape,
        zeros.strides,
    )
    assert array.tobytes() == zeros.tobytes()
    parts = call_parts(array)
    assert len(parts) == 1
    assert has_shared(parts[0])
    argument = as_argument(array)
    assert argument.dtype == array.dtype
    argument.view("u1")[...] = 1
    assert array.tobytes() == b"\1" * array.nbytes


@pytest.mark.parametrize(
    ("shape", "dtype", "fill"),
    [
        (5, float, 2.5),
        ((300_000, 3), "f4", -1),  # more than one block of the pattern
        (700_001, "V3", b"abc"),
        (4, "U2", "ab"),
        (3, "M8[D]", "2020-02-03"),
        ((), complex, 1j),
        ((2, 3), int, [1, 2, 3]),
        (0, float, 7),
        ((2, 0, 3), float, None),
    ],
    ids=str,
)
def test_array_is_filled(shape, dtype, fill):
    array = shared_array(shape, dtype, fill)
    expected = np.full(shape, 0 if fill is None else np.asarray(fill, dtype), dtype)
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.tobytes() == expected.tobytes()
    assert as_argument(array).tobytes() == expected.tobytes()


VIEWS = {
    "row": lambda array: array[3],
    "column": lambda array: array[:, 1],
    "backwards": lambda array: array[::-2, ::-1],
    "transposed": lambda array: array[1:].T,
    "reshaped": lambda array: array.reshape(2, 30),
    "other items": lambda array: array.view("c16"),
    "item": lambda array: array[2, 2, ...],
    "new axis": lambda array: array[:, None, :2],
    "read-only": lambda array: np.broadcast_to(array[1], (3, 6)),
    "windows": lambda array: np.lib.stride_tricks.sliding_window_view(array, (2, 2)),
    "of a buffer": lambda array: np.frombuffer(memoryview(array)[1:].cast("B"), "f8"),
    "matrix": lambda array: array.view(np.matrix),
    "flat": lambda array: array.ravel(),
    "nothing": lambda array: array[10:],
}


@pytest.mark.parametrize("view_of", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("is_nested", [False, True])
def test_views_arrive_as_views(view_of, is_nested):
    array = shared_array((10, 6))
    array[...] = np.arange(60).reshape(10, 6)
    view = view_of(array)
    got = as_argument({"nested": [view]})["nested"][0] if is_nested else as_argument(view)
    assert (type(got), got.shape, got.dtype) == (type(view), view.shape, view.dtype)
    assert got.tobytes() == view.tobytes()
    assert is_in(got, array)
    assert got.strides == view.strides or not got.size
    assert got.flags.writeable == view.flags.writeable


def test_masked_array_is_masked_view():
    array, mask = shared_array(4, fill=2), shared_array(4, bool)
    masked = np.ma.MaskedArray(array, mask, copy=False)
    got = as_argument(masked)
    got[1] = 5
    got.mask[2] = True
    assert array.tolist() == [2, 5, 2, 2]
    assert mask.tolist() == [False, False, True, False]
    assert isinstance(got, np.ma.MaskedArray)


def test_field_of_structured_array_is_view():
    array = shared_array(5, [("a", "i4"), ("b", "f8")])
    as_argument(array["b"])[...] = 3
    assert array["b"].tolist() == [3] * 5
    assert array["a"].tolist() == [0] * 5


def test_same_array_twice_arrives_as_one():
    array = shared_array(3)
    (first, second), _ = payload.load(call_parts(array, array))
    assert first is second


@pytest.mark.parametrize(
    "made",
    [
        lambda array: array + 0,
        lambda array: array[[0, 1]],
        lambda array: array.copy(),
        copy.copy,
        copy.deepcopy,
        lambda array: pickle.loads(pickle.dumps(array, 5)),
        lambda array: array.sum(axis=0),
    ],
)
def test_what_is_made_of_it_is_ordinary(made):
    array = shared_array((2, 3), fill=1)
    ordinary = made(array)
    array[...] = 2
    assert type(ordinary) is np.ndarray
    assert shared_place(ordinary) is None
    assert shared_place(as_argument(ordinary)) is None
    assert ordinary.max() <= 2
    assert not np.shares_memory(as_argument(ordinary), array)


def test_ordinary_arrays_are_as_before_beside_shared_ones():
    array, own = shared_array(1000), np.ones(1000)
    assert shared_place(own) is None
    assert call_parts(own)[1:] == payload.dump_call(1, len, (own.copy(),), {})[1:]
    del array
    gc.collect()
    assert shared_place(own) is None
    assert describe_shared() == ""


def test_shared_object_keeps_array_that_it_contains():
    array = shared_array((2, 3), fill=1)
    handle = share({"rows": array[1:]})
    handle.value["rows"][0, 0] = 5
    assert array[1, 0] == 5
    del array
    gc.collect()
    assert handle.value["rows"].tolist() == [[5, 1, 1]]


def test_memory_is_released_with_last_view():
    gc.disable()  # no collection is needed
    try:
        array = shared_array((3, 4))
        row = array[1].reshape(2, 2).T
        mapping = shared.find(shared_place(row)[0]).mapping
        del array
        assert not mapping.is_released
        assert describe_shared() == "1 shared object, 4.1 kB"
        del row
        assert mapping.is_released
        assert describe_shared() == ""
    finally:
        gc.enable()


def test_many_arrays_are_told_apart():
    arrays = [shared_array(5, int, number) for number in range(50)]
    del arrays[::2]
    gc.collect()
    assert [as_argument(array[1:]).tolist() for array in arrays] == [[number] * 4 for number in range(1, 50, 2)]


def test_exception_has_copy_of_array():
    from pympipool.serialization.exceptions import dump_exception, load_exception

    array = shared_array(3, fill=1)
    parts = dump_exception(ValueError(array[1:]))
    array[...] = 2
    assert load_exception(parts).args[0].tolist() == [1, 1]


@pytest.mark.parametrize("is_foreign", [False, True])
def test_data_are_sent_if_master_cannot_keep_memory(monkeypatch, is_foreign):
    """As on a rank that answers through another one: the memory stays with its owner."""

    class Control:
        asked = 0

        def hand_over_shared(self, *_request):
            self.asked += 1
            return False

    array, control = shared_array(3, fill=4), Control()
    owner = shared.find(shared_place(array)[0]).owner
    owner.hand_over(is_foreign)
    monkeypatch.setattr(serialization, "master", (control, os.getpid()))
    got = payload.load(payload.dump(array))
    assert control.asked == 1
    assert owner.handed_over == is_foreign
    array[...] = 5
    assert got.tolist() == [4, 4, 4]
    assert (shared_place(got) is None) == is_foreign


def test_memory_of_other_shared_data_is_read_only():
    found = MemoryCopy(np.ones(3))._object
    with pytest.raises(ValueError, match="read-only"):
        ArrayMemory(found, found.mapping)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, object), TypeError, r"dtype\('O'\).* cannot be Python objects"),
        ((3, [("a", "i4"), ("b", object)]), TypeError, "cannot be Python objects"),
        ((3, "nonsense"), TypeError, "nonsense"),
        ((-1,), ValueError, "shape is -1"),
        (((2, -3),), ValueError, r"shape is \(2, -3\)"),
        (((2.5, 1),), TypeError, "float"),
        ((3, int, "x"), ValueError, "'x'"),
        ((3, float, [1, 2]), ValueError, "broadcast"),
        ((1 << 50,), MemoryError, "are available on this host"),
        (((1 << 40, 1 << 40),), MemoryError, r"shape \(1099511627776, 1099511627776\).* Make it smaller"),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        shared_array(*arguments)
    assert describe_shared() == ""


def test_missing_descriptor_is_named():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"no descriptor is free to share an array of shape \(5,\) and dtype float64, 40 B"
        ):
            shared_array(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(free)
