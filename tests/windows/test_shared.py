"""Shared data: their memory travels to workers, and back from them, as descriptors or handles."""

import pytest

import pympipool

numpy = pytest.importorskip("numpy")

LIMIT_S = 60


def total(array):
    return float(array.sum())


def make_shared(size):
    return pympipool.share(numpy.ones(size))


def fill(array, index):
    array[index] = index


def test_workers_read_shared_data(make):
    exe = make()
    assert exe.submit(total, pympipool.share(numpy.arange(100_000.0))).result(LIMIT_S) == 4999950000.0


def test_results_stay_in_shared_memory(make):
    exe = make()
    assert exe.submit(total, exe.submit(make_shared, 1000).result(LIMIT_S)).result(LIMIT_S) == 1000.0


def test_workers_write_into_shared_arrays(make):
    exe = make()
    array = pympipool.shared_array((4,), float)
    array[:] = -1
    list(exe.map(fill, [array] * 4, range(4)))
    assert array.tolist() == [0.0, 1.0, 2.0, 3.0]


def same(array):
    return array


def test_returned_shared_array_is_the_same(make):
    exe = make()
    array = pympipool.shared_array((1000,), float, fill=1.0)
    for _ in range(2):
        exe.submit(same, array).result(LIMIT_S)[0] += 1.0
    assert array[0] == 3.0
