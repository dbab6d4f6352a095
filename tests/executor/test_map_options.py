"""`Executor.map`: how far it reads ahead, results as they come, iterables that are futures, and `starmap`."""

import itertools
import os
import signal
import threading
from concurrent import futures

import numpy as np
import pytest

from pympipool import Executor, shared_array
from pympipool.execution import map_results
from support.calls import add, divide, echo, hold, hold_or_square, square
from support.waiting import main_thread_is_in, wait_until

pytestmark = pytest.mark.anywhere

SIZES = [{}, {"chunksize": 1}, {"chunksize": 3}]
SIZE_IDS = ["default", "one", "chunks"]


def divide_first(x, y):
    return int(np.ravel(x)[0]) // y


def notes_of(error):
    return "".join(getattr(error, "__notes__", []))


# ---- buffersize ----


@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
@pytest.mark.parametrize("unordered", [False, True])
def test_endless_iterables_can_be_mapped(executor, size, unordered):
    results = executor.map(add, itertools.count(), itertools.count(1), buffersize=2, unordered=unordered, **size)
    assert len(list(itertools.islice(results, 10))) == 10
    results.close()
    assert list(executor.map(square, range(5), buffersize=2, **size)) == [0, 1, 4, 9, 16]
    assert list(executor.map(square, [], buffersize=2, **size)) == []


@pytest.mark.parametrize(("size", "unit"), [({}, 1), ({"chunksize": 3}, 3)])
def test_iterables_are_read_buffersize_ahead(executor, size, unit):
    items = itertools.count()
    results = executor.map(square, items, buffersize=4, **size)
    assert next(items) == 4 * unit
    items = itertools.count()
    results = executor.map(square, items, buffersize=4, **size)
    for _ in range(unit):
        next(results)
    assert next(items) == 5 * unit
    results.close()


def test_single_call_is_buffered(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold, itertools.repeat(gate.path), range(3), buffersize=1)
    gate.wait_until_begun()
    gate.open(3)
    assert list(results) == [0, 1, 2]


@pytest.mark.parametrize("wrong", [0, -1])
def test_buffersize_below_one_raises_immediately(executor, wrong):
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(square, [1], buffersize=wrong)


@pytest.mark.parametrize("wrong", ["1", 2.0, True])
def test_buffersize_must_be_an_integer(executor, wrong):
    with pytest.raises(TypeError, match="buffersize must be an integer or None"):
        executor.map(square, [1], buffersize=wrong)


def test_results_before_a_failing_iterable_come_first(executor):
    def items():
        yield from range(4)
        raise LookupError("no more")

    results = executor.map(square, items(), buffersize=2)
    came = []
    with pytest.raises(LookupError, match="no more") as raised:
        came.extend(itertools.islice(results, 9))
    assert came in ([], [0, 1, 4, 9])  # list.extend may drop what it has read
    assert "map() had returned 4 results" in notes_of(raised.value)


def test_shutdown_ends_reading_after_the_buffer(make_executor):
    exe = make_executor()
    results = exe.map(square, itertools.count(), buffersize=2)
    exe.shutdown()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(results)


# ---- unordered ----


@pytest.mark.parametrize("size", SIZES[:2], ids=SIZE_IDS[:2])
def test_unordered_results_come_before_a_slow_first_one(make_executor, gate, size):
    exe = make_executor(max_workers=2)
    results = exe.map(hold_or_square, [gate.path] * 9, range(9), [0] + [-1] * 8, unordered=True, **size)
    first = [next(results) for _ in range(7)]
    gate.open()
    assert sorted(first + list(results)) == sorted(n * n for n in range(9))


@pytest.mark.parametrize("size", [*SIZES, {"buffersize": 3}, {"buffersize": 2, "chunksize": 7}], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_unordered_results_come_all(executor, size, count):
    count = count if executor.info["block_allocation"] else min(count, 10)
    assert sorted(executor.map(square, range(count), unordered=True, **size)) == [n * n for n in range(count)]


@pytest.mark.parametrize("size", SIZES, ids=SIZE_IDS)
def test_unordered_exception_ends_the_results(executor, size):
    results = executor.map(divide, [1] * 9, [1, 1, 0, 1, 1, 1, 1, 1, 1], unordered=True, **size)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert list(results) == []
    assert executor.submit(square, 2).result() == 4


def test_unordered_map_has_a_timeout(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold, [gate.path] * 2, unordered=True, timeout=0.1)
    with pytest.raises(futures.TimeoutError):
        next(results)
    gate.open(2)


def test_unordered_results_after_shutdown(make_executor):
    exe = make_executor(max_workers=2)
    results = exe.map(square, range(6), unordered=True)
    exe.shutdown()
    assert sorted(results) == [0, 1, 4, 9, 16, 25]


def test_cancelled_unordered_map_ends(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold, [gate.path] * 50, unordered=True)
    gate.wait_until_begun()
    exe.shutdown(wait=False, cancel_futures=True)
    gate.open()
    with pytest.raises(futures.CancelledError):
        list(results)


# ---- futures and rows ----


def test_future_of_a_list_is_mapped(executor):
    numbers = executor.submit(list, range(5))
    assert list(executor.map(square, numbers)) == [0, 1, 4, 9, 16]
    assert list(executor.map(add, numbers, executor.submit(np.arange, 5))) == [0, 2, 4, 6, 8]


def test_failed_future_raises_in_map(executor):
    with pytest.raises(ZeroDivisionError):
        executor.map(square, executor.submit(divide, 1, 0))


def test_future_counts_towards_the_timeout(executor):
    with pytest.raises(futures.TimeoutError):
        executor.map(square, futures.Future(), timeout=0.05)


def test_future_is_refused_without_dependencies(make_executor):
    exe = make_executor(disable_dependencies=True)
    with pytest.raises(TypeError, match=r"arguments of map\(\), and disable_dependencies=True"):
        exe.map(square, exe.submit(list, [1]))


@pytest.mark.parametrize("size", [*SIZES, {"buffersize": 2}], ids=str)
def test_starmap_takes_the_arguments_of_each_call(executor, size):
    assert list(executor.starmap(pow, [(2, 3), (3, 2), (5, 1)], **size)) == [8, 9, 5]
    assert list(executor.starmap(pow, ([2, 3], (2, 5, 7)), **size)) == [8, 4]
    assert list(executor.starmap(dict, [(), ()], **size)) == [{}, {}]
    assert list(executor.starmap(pow, [], **size)) == []
    first = executor.submit(square, 3)
    assert list(executor.starmap(add, [(first, 1), (2, first)], **size)) == [10, 11]
    assert list(executor.starmap(add, executor.submit(echo, [(1, 2), (3, 4)]), **size)) == [3, 7]


def test_starmap_refuses_rows_that_are_none(executor):
    with pytest.raises(TypeError, match="not iterable"):
        executor.starmap(pow, [1, 2])


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_unordered_must_be_a_bool(executor, wrong):
    with pytest.raises(TypeError, match="unordered is"):
        executor.map(square, [1], unordered=wrong)


# ---- how many results had come ----


@pytest.mark.parametrize("size", [*SIZES, {"buffersize": 2}], ids=str)
def test_exception_tells_how_many_results_came(executor, size):
    results = executor.map(divide, [6] * 9, [1, 2, 3, 0, 1, 1, 1, 1, 1], **size)
    with pytest.raises(ZeroDivisionError) as raised:
        list(results)
    assert f"map() had returned {'3' if 'buffersize' in size else '3 of 9'} results" in notes_of(raised.value)


def test_first_exception_tells_no_count(executor):
    with pytest.raises(ZeroDivisionError) as raised:
        list(executor.map(divide, [1, 1], [0, 1]))
    assert "had returned" not in notes_of(raised.value)


@pytest.mark.parametrize("unordered", [False, True])
def test_interrupt_tells_how_many_results_came(make_executor, gate, unordered):
    exe = make_executor()

    def interrupt():
        gate.wait_until_begun()
        wait_until(lambda: main_thread_is_in("_next", map_results.__file__))
        os.kill(os.getpid(), signal.SIGINT)

    results = exe.map(hold_or_square, [gate.path] * 4, range(4), [2] * 4, unordered=unordered, chunksize=1)
    first = [next(results), next(results)]
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as raised:
        list(results)
    thread.join()
    gate.open()
    assert first == [0, 1]
    assert "map() had returned 2 of 4 results" in notes_of(raised.value)
    assert exe.submit(square, 3).result() == 9


def test_note_tells_where_results_are(executor, tmp_path):
    with pytest.raises(ZeroDivisionError) as raised:
        list(executor.map(divide, [1, 1], [1, 0]))
    assert "If you passed it to list(), they are lost" in notes_of(raised.value)
    directory = str(tmp_path / "cache")
    for options in ({}, {"chunksize": 2}, {"buffersize": 2}):
        with Executor(max_workers=1, block_allocation=True, backend="mpi", cache_directory=directory) as exe:
            with pytest.raises(ZeroDivisionError) as raised:
                list(exe.map(divide, [1, 1], [1, 0], **options))
            assert f"; they are kept in {directory!r}: run the script again" in notes_of(raised.value)


@pytest.mark.filterwarnings("ignore::pympipool.errors.CacheWarning")
def test_note_promises_no_cache_without_one(tmp_path):
    array = shared_array(1, int, fill=1)  # its content has no key
    with Executor(backend="serial", cache_directory=tmp_path / "cache") as exe:
        for numerator, options in ((array, {}), (1, {"cache": False})):
            with pytest.raises(ZeroDivisionError) as raised:
                list(exe.map(divide_first, [numerator, numerator], [1, 0], **options))
            assert "they are lost" in notes_of(raised.value)


def test_note_names_no_directory_without_results(tmp_path):
    """Calls are not kept that get results of calls without a key."""
    with Executor(backend="mpi", max_workers=1, cache_directory=str(tmp_path / "cache")) as exe:
        divisors = [exe.submit(int, number, resource_dict={"cache": False}) for number in (1, 0)]
        with pytest.raises(ZeroDivisionError) as raised:
            list(exe.map(divide, [1, 1], divisors))
    assert "had returned 1 of 2 results. If you passed it to list(), they are lost" in notes_of(raised.value)


def test_python_without_notes_warns(monkeypatch, executor):
    monkeypatch.setattr(map_results, "HAS_NOTES", False)
    with pytest.warns(RuntimeWarning, match="had returned 1 of 2 results"), pytest.raises(ZeroDivisionError):
        list(executor.map(divide, [1, 1], [1, 0]))


# ---- without workers ----


def test_serial_backend_maps_alike():
    with Executor(backend="serial") as exe:
        assert list(itertools.islice(exe.map(square, itertools.count(), buffersize=2), 4)) == [0, 1, 4, 9]
        assert list(exe.map(square, exe.submit(list, [1, 2]), unordered=True, chunksize=2)) == [1, 4]
        assert list(exe.starmap(pow, [(2, 3), (2, 5, 7)])) == [8, 4]
        with pytest.raises(ZeroDivisionError) as raised:
            list(exe.map(divide, [1, 1], [1, 0]))
        assert "map() had returned 1 of 2 results" in notes_of(raised.value)
