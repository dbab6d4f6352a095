"""Results that stay in shared memory: a call returns a handle, the data stay where they are."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import pympipool
from pympipool.serialization import shared
from support.calls import hold
from support.waiting import wait_until


def shared_range(begin, count=100_000):
    return pympipool.share(np.arange(begin, begin + count))


def is_view(array, begin):
    return array[0] == begin and not array.flags.writeable


def raise_one(array):
    return pympipool.share(array + 1)


def share_and_die(gate):
    return [shared_range(1), DiesWhenPickled(gate)]


class DiesWhenPickled:
    def __init__(self, gate):
        self.gate = gate

    def __reduce__(self):
        hold(self.gate)
        os.kill(os.getpid(), signal.SIGKILL)


def nothing_is_shared():
    return not shared._objects


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    wait_until(nothing_is_shared)


@pytest.mark.anywhere
def test_result_is_handle_that_calls_get(executor):
    future = executor.submit(shared_range, 5)
    handle = future.result()
    assert isinstance(handle, pympipool.Shared)
    assert is_view(handle.value, 5)


@pytest.mark.anywhere
def test_map_returns_handles(executor, many):
    count = many(40, 4)
    handles = list(executor.map(shared_range, range(count), chunksize=4))
    assert [int(handle.value[0]) for handle in handles] == list(range(count))


@pytest.mark.anywhere
def test_handles_and_futures_are_arguments(executor):
    first = executor.submit(shared_range, 1)
    second = executor.submit(raise_one, first)
    third = executor.submit(raise_one, second.result())
    del first, second
    assert executor.submit(is_view, third, 3).result()


def test_parts_stay_with_their_whole(executor):
    whole = executor.submit(lambda: pympipool.share({"part": shared_range(2), "whole": np.zeros(1000)})).result()
    assert executor.submit(lambda whole: is_view(whole["part"], 2), whole).result()
    assert is_view(whole.value["part"], 2)


def test_large_result_keeps_handle_for_dependents(executor):
    pair = executor.submit(lambda: (shared_range(7), b"x" * 10_000))
    length = executor.submit(lambda pair: (is_view(pair[0], 7), len(pair[1])), pair)
    del pair
    assert length.result() == (True, 10_000)


@pytest.mark.mpi
def test_each_rank_shares_its_result(opened):
    executor = pympipool.Executor(max_workers=1, cores_per_worker=2)
    opened.append(executor)
    handles = executor.submit(shared_range, 3).result()
    views = [executor.submit(is_view, handle, 3).result() for handle in handles]
    assert views == [[True, True], [True, True]]
    assert len(shared._objects) == 2
    opened.remove(executor)
    executor.shutdown()


def test_serial_backend_returns_handle():
    with pympipool.Executor(backend="serial") as executor:
        handle, _ = executor.submit(lambda: (shared_range(3), [])).result()
        assert executor.submit(is_view, handle, 3).result()


def test_handle_outlives_executor(block_allocation):
    with pympipool.Executor(max_workers=1, block_allocation=block_allocation) as executor:
        handle = executor.submit(shared_range, 3).result()
    assert is_view(handle.value, 3)


@pytest.mark.parametrize("block_allocation", [True], indirect=True)
class TestUnread:
    """What no handle in the master refers to."""

    def test_unread_result_is_released(self, executor):
        future = executor.submit(shared_range, 1)
        wait_until(future.done)
        assert len(shared._objects) == 1
        del future
        wait_until(nothing_is_shared)

    def test_death_before_answer_releases(self, make_executor, gate):
        executor = make_executor()

        future = executor.submit(share_and_die, gate.path)
        gate.wait_until_begun()
        assert len(shared._objects) == 1
        gate.open()
        assert future.exception() is not None
        wait_until(nothing_is_shared)
