"""Code of users inside of `map`: iterables and functions that use the executor which maps them, or end with any exception."""

from __future__ import annotations

import os
from concurrent.futures import wait

import pytest

from pympipool import Executor

LIMIT_S = 60
MASTER = os.getpid()
used = None  # the executor, for code that runs while something is pickled or unpickled


@pytest.fixture
def exe():
    global used
    with Executor(max_workers=2, backend="mpi", block_allocation=True) as used:
        yield used
    used = None


def double(value):
    return 2 * value


def length(values):
    return len(values)


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_iterable_may_use_the_same_executor(exe, chunksize):
    def items():
        yield exe.submit(double, 1).result(LIMIT_S)
        yield from exe.map(double, range(20), timeout=LIMIT_S)
        yield sum(exe.map(double, range(5), chunksize=2, timeout=LIMIT_S))

    inputs = [2, *range(0, 40, 2), 20]
    assert list(exe.map(double, items(), chunksize=chunksize, timeout=LIMIT_S)) == [2 * item for item in inputs]


@pytest.mark.parametrize("wait_for_end", [True, False])
@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_iterable_that_closes_the_executor_is_refused(exe, chunksize, wait_for_end):
    def items():
        yield from range(7)
        exe.shutdown(wait=wait_for_end)
        yield from range(7)

    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.map(double, items(), chunksize=chunksize)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_exception_of_an_iterable_ends_only_map(exe, chunksize, kind):
    def items():
        yield from range(7)
        raise kind

    with pytest.raises(kind):
        exe.map(double, items(), chunksize=chunksize)
    assert exe.submit(double, 4).result(LIMIT_S) == 8


class MapsOnArrival:
    """Its pickle, when read in the process that has made the executor, is the list of what a map returns."""

    def __init__(self, count, chunksize):
        self.arguments = count, chunksize

    def __reduce__(self):
        return map_on_arrival, self.arguments


def map_on_arrival(count, chunksize):
    return list(used.map(double, range(count), chunksize=chunksize)) if os.getpid() == MASTER else []


@pytest.mark.parametrize("chunksize", [None, 7])
def test_map_inside_the_continuation_thread_ends(exe, chunksize):
    inputs = exe.submit(MapsOnArrival, 300, chunksize)
    wait([inputs], LIMIT_S)
    assert exe.submit(length, inputs).result(LIMIT_S) == 300


class CallsWhenPickled:
    """A function whose pickling waits for a call of the executor."""

    def __reduce__(self):
        return CallsWhenPickled.make, (used.submit(double, 1).result(LIMIT_S),)

    @classmethod
    def make(cls, _):
        return cls()

    def __call__(self, value):
        return 2 * value


@pytest.mark.parametrize("chunksize", [None, 7])
def test_function_that_calls_when_pickled_is_mapped(exe, chunksize):
    results = exe.map(CallsWhenPickled(), range(50), chunksize=chunksize, timeout=LIMIT_S)
    assert list(results) == [2 * value for value in range(50)]
