"""Calls write shared arrays where they lie."""

import functools
import gc
import os
import resource
import signal
import threading

import numpy as np
import pytest

from pympipool import Executor, share, shared_array
from pympipool.errors import WorkerDied
from pympipool.serialization import describe_shared, shared
from support.calls import square
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

MODES = [
    pytest.param({"block_allocation": True}, id="block_allocation"),
    pytest.param({}, id="process_per_call"),
    pytest.param({"backend": "serial"}, id="serial"),
    pytest.param({"block_allocation": True, "cores_per_worker": 2}, id="ranks", marks=pytest.mark.mpi),
]


@pytest.fixture(params=MODES)
def any_executor(request):
    with Executor(max_workers=1, **request.param) as exe:
        yield exe


@pytest.fixture
def executor():
    with Executor(max_workers=2, block_allocation=True) as exe:
        yield exe


@pytest.fixture(autouse=True)
def no_globals():
    """Drop what calls of the serial backend have left in this module."""
    yield
    globals().pop("kept", None)


ODD_BYTES = 12_345_678
"""A size that nothing but an array has."""


def mappings_of(pid):
    """Return the mappings of shared arrays of that size that a process has."""
    with open(f"/proc/{pid}/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if "memfd:pympipool" in line and " rw-s " in line]
    return [
        begin for begin, end in ranges if 0 < int(end, 16) - int(begin, 16) - ODD_BYTES < 2 * resource.getpagesize()
    ]


def fill(array, value):
    array[...] = value


def fill_nested(nested, value):
    nested["list"][0][1] = value


def bump(array):
    array += 1
    return array


def row_of(array, i):
    return {"row": array[i]}


def first(result):
    """Return the result of a call, on a worker of several ranks that of rank 0."""
    return result[0] if isinstance(result, list) else result


def new_array(size, value):
    return shared_array(size, fill=value)


def keep(array):
    global kept
    kept = array[1]


def read_kept():
    return kept.tolist()


def return_kept():
    return kept


def fill_in_worker_of_worker(array, value):
    with Executor(max_workers=1) as exe:
        exe.submit(fill, array[1:], value).result()
    return float(array[1, 0])


def fill_in_fork(array, value):
    pid = os.fork()
    if pid == 0:
        array[...] = value
        os._exit(0)
    os.waitpid(pid, 0)


def write_and_die(array):
    array[0] = 5
    os.kill(os.getpid(), signal.SIGKILL)


def raise_with(array):
    raise ValueError(array)


def test_calls_write_script_sees(any_executor):
    array = shared_array((4, 1000))
    wait_for = [any_executor.submit(fill, array[i], i) for i in range(4)]
    assert all(first(call.result()) is None for call in wait_for)
    assert array.tolist() == [[i] * 1000 for i in range(4)]


def test_arrays_are_found_everywhere(any_executor):
    array = shared_array((6, 3))
    view = array[5]

    def fill_closure():
        view[...] = 5

    calls = [
        any_executor.submit(fill_nested, {"list": [array]}, 1),
        any_executor.submit(functools.partial(fill, array[2]), 2),
        any_executor.submit(fill, value=3, array=array[3]),
        any_executor.submit(lambda nested, value: fill(nested["view"], value), share({"view": array[4]}), 4),
        any_executor.submit(fill_closure),
    ]
    for call in calls:
        call.result()
    assert array[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_function_is_sent_with_global_array(any_executor):
    names = {"array": shared_array(3)}
    exec("def fill_global(value):\n    array[1:] = value", names)
    any_executor.submit(names["fill_global"], 7).result()
    assert names["array"].tolist() == [0, 7, 7]


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_map_writes_rows(any_executor, chunksize):
    array = shared_array((20, 8), int)
    list(any_executor.map(fill, list(array), range(20), chunksize=chunksize))
    assert array[:, 7].tolist() == list(range(20))


@pytest.mark.parametrize("begin", [0, 1])
def test_map_writes_rows_in_containers(executor, begin):
    array = shared_array((20, 8), int)
    items = [{"row": array[i] if i >= begin else np.zeros(8, int), "value": i + 1} for i in range(20)]
    list(executor.map(lambda item: fill(item["row"], item["value"]), items))
    assert array[begin:, 7].tolist() == list(range(begin + 1, 21))


def test_result_is_same_memory(any_executor):
    array = shared_array((3, 4))
    result = first(any_executor.submit(row_of, array, 1).result())["row"]
    array[1] = 5
    assert result.tolist() == [5] * 4
    result[0] = 6
    assert array[1, 0] == 6


def test_results_of_map_are_same_memory(executor):
    array = shared_array((8, 4))
    rows = list(executor.map(row_of, [array] * 8, range(8), chunksize=4))
    array[...] = np.arange(8)[:, None]
    assert [row["row"].tolist() for row in rows] == [[i] * 4 for i in range(8)]


@pytest.mark.parametrize("any_executor", MODES[:3], indirect=True)  # the result of several ranks is a list
def test_result_goes_to_next_call_as_same_memory(any_executor):
    array = shared_array(3)
    future = any_executor.submit(bump, any_executor.submit(bump, array))
    assert future.result().tolist() == [2, 2, 2]
    assert array.tolist() == [2, 2, 2]


def test_unread_result_keeps_memory(executor):
    array = shared_array(3, fill=4)
    future = executor.submit(row_of, array, slice(1, None))
    wait_until(future.done)
    del array
    gc.collect()
    assert describe_shared() == "1 shared object, 4.1 kB"
    assert future.result()["row"].tolist() == [4, 4]
    del future
    wait_until(lambda: describe_shared() == "")


def test_call_returns_new_array(any_executor):
    array = first(any_executor.submit(new_array, 5, 3).result())
    assert array.tolist() == [3] * 5
    assert shared.describe_owned()
    any_executor.submit(fill, array, 8).result()
    assert array.tolist() == [8] * 5


def test_array_outlives_worker_that_made_it():
    with Executor(max_workers=1) as exe:
        array = exe.submit(new_array, 5, 3).result()
    with Executor(max_workers=1) as exe:
        exe.submit(fill, array[1:], 4).result()
    assert array.tolist() == [3, 4, 4, 4, 4]


def test_kept_array_of_ended_one_lives_again(executor):
    executor.max_workers = 1
    array = shared_array((2, 3), fill=1)
    executor.submit(keep, array).result()
    del array
    wait_until(lambda: gc.collect() is not None and describe_shared() == "")
    assert executor.submit(read_kept).result() == [1] * 3
    again = executor.submit(return_kept).result()
    again[0] = 9
    assert executor.submit(read_kept).result() == [9, 1, 1]


def test_memory_is_released_everywhere(executor):
    executor.max_workers = 1
    gc.collect()
    array = shared_array(ODD_BYTES, "u1")
    executor.submit(fill, array, 1).result()
    wait_until(lambda: len(executor.info["workers"]) == 1)
    [worker] = executor.info["workers"]
    assert len(mappings_of(worker["pid"])) == len(mappings_of(os.getpid())) == 1
    del array
    gc.collect()
    assert mappings_of(os.getpid()) == []
    wait_until(lambda: mappings_of(worker["pid"]) == [])  # though it sleeps
    assert executor.submit(square, 2).result() == 4


def test_waiting_call_keeps_memory(executor):
    executor.max_workers = 1
    ready = threading.Event()
    executor.submit(square, 1).add_done_callback(lambda _: ready.wait())  # until then no result is set
    array = shared_array(10)
    calls = [executor.submit(bump, array[number:]) for number in range(10)]
    del array
    gc.collect()
    ready.set()
    assert [len(call.result()) for call in calls] == list(range(10, 0, -1))
    assert calls[0].result().tolist() == list(range(1, 11))
    del calls
    wait_until(lambda: gc.collect() is not None and describe_shared() == "")


def test_init_function_and_initializer_get_array():
    array = shared_array((2, 3))
    options = {
        "init_function": lambda: {"array": array[1]},
        "initializer": fill,
        "initargs": (array[0], 5),
    }
    with Executor(max_workers=1, block_allocation=True, **options) as exe:
        exe.submit(fill, value=7).result()
        assert array.tolist() == [[5] * 3, [7] * 3]
        array[0] = 0
        with pytest.raises(WorkerDied):
            exe.submit(write_and_die).result()
        exe.submit(fill, value=8).result()
        assert array.tolist() == [[5] * 3, [8] * 3]


def test_worker_of_worker_writes(executor):
    array = shared_array((2, 3))
    assert executor.submit(fill_in_worker_of_worker, array, 4).result() == 4
    assert array.tolist() == [[0] * 3, [4] * 3]


def test_dead_worker_leaves_what_it_has_written(executor):
    array = shared_array(3)
    assert isinstance(executor.submit(write_and_die, array).exception(), WorkerDied)
    executor.submit(fill, array[1:], 6).result()
    assert array.tolist() == [5, 6, 6]


def test_forks_write_same_memory(executor):
    array = shared_array(3)
    executor.submit(fill_in_fork, array[:2], 2).result()
    fill_in_fork(array[1:], 3)
    assert array.tolist() == [2, 3, 3]
    executor.submit(fill, array, 4).result()
    assert array.tolist() == [4, 4, 4]


def test_read_only_view_stays_read_only(executor):
    array = shared_array(3)
    view = array[:]
    view.flags.writeable = False
    assert isinstance(executor.submit(fill, view, 1).exception(), ValueError)
    assert array.tolist() == [0, 0, 0]


def test_exception_has_copy(executor):
    array = shared_array(3, fill=1)
    error = executor.submit(raise_with, array).exception()
    array[...] = 2
    assert error.args[0].tolist() == [1, 1, 1]


def test_share_above_leaves_shared_arrays_alone():
    pytest.importorskip("xxhash", reason="pip install xxhash")
    array = shared_array((10, 1000), fill=1)
    with Executor(max_workers=1, block_allocation=True, share_above=1000) as exe:
        for value in range(6):
            exe.submit(fill, array, value).result()
            assert array[3, 3] == value
