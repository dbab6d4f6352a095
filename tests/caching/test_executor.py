"""`Executor(cache_directory=...)`: calls that were made before are answered, and nothing else changes."""

import asyncio
import gc
import os
import threading
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest

from pympipool import (
    Executor,
    batched,
    get_cache_data,
    get_item_from_future,
    share,
    shared_array,
    split_future,
)
from pympipool.errors import CacheWarning

TIMEOUT_S = 60


@pytest.fixture
def counter(tmp_path):
    """A file to which each call that runs adds a byte, and a function that returns their number."""
    path = tmp_path / "count"
    path.touch()

    class Counter(str):
        __slots__ = ()

        def value(self):
            return os.path.getsize(self)

    return Counter(path)


def square(x, count):
    with open(count, "a") as file:
        file.write(".")
    return x * x


def array(value, size, count):
    square(1, count)
    return {"array": np.full(size, value), "name": f"array {value}"}


def total(values, count):
    square(1, count)
    return float(np.sum(values["array"] if isinstance(values, dict) else values))


def fail(count):
    square(1, count)
    raise ValueError("as asked for")


def test_a_call_that_was_made_before_is_answered(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            assert exe.submit(square, 3, str(counter)).result() == 9
            assert exe.submit(square, 4, count=str(counter)).result() == 16
            assert exe.submit(square, 3, str(counter)).result() == 9 or counter.value() == 3
    assert counter.value() in (2, 3)


def test_answered_calls_are_done_at_once(make_block, counter):
    with make_block() as exe:
        exe.submit(square, 3, str(counter)).result()
    with make_block() as exe:
        future = exe.submit(square, 3, str(counter))
        assert future.done()
        assert not any((future.running(), future.cancelled(), future.cancel()))
        assert future.exception() is None
        called = []
        future.add_done_callback(called.append)
        assert called == [future]
        assert futures.wait([future], TIMEOUT_S).done == {future}
        assert list(futures.as_completed([future], TIMEOUT_S)) == [future]
        assert asyncio.run(as_coroutine(future)) == 9
    assert future.result() == 9
    assert counter.value() == 1


async def as_coroutine(future):
    return await asyncio.wrap_future(future)


def test_large_results_are_answered_and_writable(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            future = exe.submit(array, 7, 200_000, str(counter))
            result = future.result()
            assert result["name"] == "array 7"
            assert (result["array"] == 7).all()
            result["array"][:] = 8  # neither the file nor other reads see it
        with make_executor() as exe:
            assert (exe.submit(array, 7, 200_000, str(counter)).result()["array"] == 7).all()
    assert counter.value() == 1


def test_changes_to_results_never_reach_the_disk(make_block, counter):
    with make_block() as exe:
        made = [exe.submit(array, value, 50_000, str(counter)) for value in range(20)]
        for future in made:
            future.result()["array"][:] = -1  # at once, perhaps before it is written
    with make_block() as exe:
        for value in range(20):
            assert (exe.submit(array, value, 50_000, str(counter)).result()["array"] == value).all()
    assert counter.value() == 20


def test_chains_are_answered_without_reading_inputs(make_executor, counter, tmp_path):
    def chain(exe):
        first = exe.submit(array, 2, 100_000, str(counter))
        second = exe.submit(total, first, str(counter))
        return exe.submit(square, second, str(counter))

    with make_executor() as exe:
        assert chain(exe).result() == 200_000.0**2
    before = counter.value()
    with make_executor() as exe:
        last = chain(exe)
        assert last.done()
        files = [path for path in (tmp_path / "cache" / "results").glob("*/*") if path.is_file()]
        assert len(files) == 1
        files[0].unlink()
        assert last.result() == 200_000.0**2
    assert counter.value() == before


def test_calls_without_cache_get_answered_inputs(make_executor, counter):
    with make_executor() as exe:
        exe.submit(array, 2, 100_000, str(counter)).result()
    with make_executor() as exe:
        cached = exe.submit(array, 2, 100_000, str(counter))
        assert exe.submit(total, cached, str(counter), resource_dict={"cache": False}).result() == 200_000.0
        assert exe.submit(total, [cached, 1][0], str(counter)).result() == 200_000.0


def test_items_of_futures_have_keys(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            item = get_item_from_future(exe.submit(array, 2, 10, str(counter)), "array")
            assert exe.submit(total, item, str(counter)).result() == 20.0
            first, second = split_future(exe.submit(divmod, 17, 5), 2)
            assert exe.submit(square, first, str(counter)).result() == 9
            assert exe.submit(square, second, str(counter)).result() == 4
    assert counter.value() == 4


def test_futures_without_a_key_are_resolved(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            (both,) = batched([exe.submit(abs, -2), exe.submit(abs, -3)], 2)
            assert exe.submit(total, both, str(counter)).result() == 5.0
    assert counter.value() == 2


def test_executors_without_dependencies_refuse_futures(make_block, counter):
    for _ in range(2):
        with make_block(disable_dependencies=True) as exe:
            future = exe.submit(square, 3, str(counter))
            assert future.result() == 9
            with pytest.raises(TypeError, match="disable_dependencies"):
                exe.submit(square, future, str(counter))
    assert counter.value() == 1


def test_exceptions_are_not_cached(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe, pytest.raises(ValueError, match="as asked for"):
            exe.submit(fail, str(counter)).result()
    assert counter.value() == 2


def test_calls_can_be_named(make_executor, counter):
    named = {"cache_key": "the energy of water"}
    with make_executor() as exe:
        assert exe.submit(square, 3, str(counter), resource_dict=named).result() == 9
    with make_executor() as exe:
        assert exe.submit(square, 4, str(counter), resource_dict=named).result() == 9
    assert counter.value() == 1


def test_any_text_is_a_name(make_executor, counter):
    named = {"cache_key": "half of a pair: \udc80"}
    for _ in range(2):
        with make_executor() as exe:
            assert exe.submit(square, 3, str(counter), resource_dict=named).result() == 9
    assert counter.value() == 1


def test_a_call_can_do_without_the_cache(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            assert exe.submit(square, 3, str(counter), resource_dict={"cache": False}).result() == 9
    assert counter.value() == 2


@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"buffersize": 4}, {"unordered": True}], ids=str)
def test_map_answers_what_is_known(make_executor, counter, options):
    counts = [str(counter)] * 9
    with make_executor() as exe:
        assert sorted(exe.map(square, range(6), counts, **options)) == [x * x for x in range(6)]
    assert counter.value() == 6
    with make_executor() as exe:
        assert sorted(exe.map(square, range(9), counts, **options)) == [x * x for x in range(9)]
        assert sorted(exe.starmap(square, [(x, str(counter)) for x in range(9)], **options)) == [
            x * x for x in range(9)
        ]
    assert counter.value() == 9


def test_map_can_do_without_the_cache(make_executor, counter):
    for _ in range(2):
        with make_executor() as exe:
            assert list(exe.map(square, range(3), [str(counter)] * 3, cache=False)) == [0, 1, 4]
    assert counter.value() == 6


def test_map_checks_cache(make_block):
    with make_block() as exe, pytest.raises(TypeError, match="cache is 'no'"):
        exe.map(square, [1], [""], cache="no")


def test_calls_without_key_are_warned_of_once(make_block, counter):
    lock = threading.Lock()

    def locked(x):
        return square(x, str(counter)) if lock is not None else lock

    def unpickled(x):
        return x

    with make_block() as exe:
        with (
            pytest.warns(
                CacheWarning, match=r"calls of .*unpickled\(\) are not cached.*argument 1.*generator"
            ) as warned,
            pytest.raises(Exception, match="pickle"),
        ):
            exe.submit(unpickled, (x for x in range(3))).result()
        assert [warning.filename for warning in warned] == [__file__]
        with pytest.raises(Exception, match="pickle"):
            exe.submit(unpickled, (x for x in range(3))).result()
        with pytest.warns(CacheWarning, match="the variable lock around .*locked"):
            future = exe.submit(locked, 1)
        with pytest.raises(Exception, match="pickle"):
            future.result()


def test_keys_depend_on_init_function(make_block, counter):
    def make_init(value):
        return lambda: {"y": value}

    def add(x, y, count):
        square(1, count)
        return x + y

    for value in (1, 2, 1):
        with make_block(init_function=make_init(value)) as exe:
            assert exe.submit(add, 1, count=str(counter)).result() == 1 + value
    assert counter.value() == 2


def test_calls_run_in_each_folder(directory, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with Executor(backend="serial", cache_directory=directory) as exe:
        found = [exe.submit(os.getcwd, resource_dict={"cwd": folder}).result() for folder in folders]
        assert found == [*map(str, folders)]
    for folder in folders:
        with Executor(backend="serial", cache_directory=directory, cwd=folder) as exe:
            assert exe.submit(os.getcwd).result() == str(folder)
            assert list(exe.map(lambda _: os.getcwd(), [1])) == [str(folder)]


def test_functions_that_change_in_a_session_run_again(make_block, counter):
    results = []
    for factor in (2, 3, 2):

        def scaled(x, count):
            square(1, count)
            return x * factor  # noqa: B023  # that is what is tested

        with make_block() as exe:
            results += [exe.submit(scaled, x, str(counter)).result() for x in (1, 2)]
    assert results == [2, 4, 3, 6, 2, 4]
    assert counter.value() == 4


def test_two_executors_share_a_directory(make_block, counter):
    with make_block() as first, make_block() as second:
        numbers = range(50)
        for exe in (first, second):
            assert list(exe.map(square, numbers, [str(counter)] * 50)) == [x * x for x in numbers]
    with make_block() as exe:
        before = counter.value()
        assert list(exe.map(square, range(50), [str(counter)] * 50)) == [x * x for x in range(50)]
        assert counter.value() == before


def test_handles_of_shared_data_are_not_cached(make_block):
    def returns_handle():
        return share([1, 2, 3])

    for _ in range(2):
        with make_block() as exe:
            assert exe.submit(returns_handle).result().value == [1, 2, 3]
        gc.collect()


def test_calls_that_write_shared_arrays_run(make_block):
    def write(array, number):
        array[number] += 1
        return array

    array = shared_array(3)
    for _ in range(2):
        with make_block() as exe, pytest.warns(CacheWarning, match="shared memory"):
            assert exe.submit(write, array, 1).result()[1] > 0
    assert list(array) == [0, 2, 0]


@pytest.mark.parametrize(
    "select", [lambda future: future, lambda future: [future], lambda future: split_future(future, 2)[1]]
)
def test_calls_that_write_shared_results_are_not_answered(make_executor, select):
    def make():
        return shared_array(3), shared_array(3)

    def write(array):
        while type(array) is not np.ndarray:
            array = array[-1]
        array += 1

    for _ in range(2):
        with make_executor() as exe:
            for _ in range(2):
                made = exe.submit(make)
                exe.submit(write, select(made)).result()
                assert list(made.result()[1]) == [1, 1, 1]
                exe.submit(write, select(made)).result()
                assert list(made.result()[1]) == [2, 2, 2]


def test_instances_of_classes_of_functions_are_cached(make_block, counter):
    class Local:
        def __init__(self, x):
            self.x = x

    def make(x, count):
        square(1, count)
        return [Local(x)]

    for _ in range(2):
        with make_block() as exe:
            assert exe.submit(make, 5, str(counter)).result()[0].x == 5
    assert counter.value() == 1


def test_an_executor_that_is_dropped_writes_all_results(make_block, counter):
    exe = make_block()
    future = exe.submit(square, 3, str(counter))
    del exe
    gc.collect()
    assert future.result(TIMEOUT_S) == 9
    deadline_s = time.monotonic() + TIMEOUT_S
    while any(thread.name == "pympipool_cache" for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    with make_block() as exe:
        assert exe.submit(square, 3, str(counter)).result() == 9
    assert counter.value() == 1


def test_results_that_nobody_waits_for_are_written(make_block, counter, tmp_path):
    with make_block() as exe:
        made = [exe.submit(square, x, str(counter)) for x in range(20)]
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(get_cache_data(tmp_path / "cache", results=False)) < 20:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert all(future.done() for future in made)


def test_results_before_shutdown_without_waiting_are_written(make_block, counter):
    exe = make_block()
    made = [exe.submit(square, x, str(counter)) for x in range(20)]
    futures.wait(made)
    exe.shutdown(wait=False)
    exe.shutdown(wait=True)
    with make_block() as exe:
        assert all(exe.submit(square, x, str(counter)).done() for x in range(20))
    assert counter.value() == 20


def test_killed_executors_keep_results_that_have_come(make_block, counter):
    with make_block() as exe:
        futures.wait([exe.submit(square, x, str(counter)) for x in range(20)])
        exe.submit(time.sleep, 60)
        exe.kill_workers()
    with make_block() as exe:
        assert all(exe.submit(square, x, str(counter)).done() for x in range(20))


def test_cancelled_calls_are_not_cached(make_block, counter):
    with make_block(max_workers=1) as exe:
        running = exe.submit(time.sleep, 0.2)
        waiting = exe.submit(square, 3, str(counter))
        if waiting.cancel():
            assert waiting.cancelled()
        running.result()
    with make_block() as exe:
        assert exe.submit(square, 3, str(counter)).result() == 9


def test_closed_executors_answer_nothing(make_executor, counter):
    with make_executor() as exe:
        exe.submit(square, 3, str(counter)).result()
    with pytest.raises(RuntimeError, match="shutdown"):
        exe.submit(square, 3, str(counter))


def test_info_names_the_directory(make_block, tmp_path):
    with make_block() as exe:
        assert Path(exe.info["cache_directory"]) == tmp_path / "cache"


@pytest.mark.parametrize("name", ["cache", "cache_key"])
def test_options_of_single_calls_are_none_of_executors(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}=.*submit"):
        Executor(resource_dict={name: "a" if name == "cache_key" else False})


@pytest.mark.mpi
def test_results_of_ranks_are_cached(make_block, counter):
    for result_of, expected in (("all", [9, 9]), ("root", 9), ("all", [9, 9])):
        with make_block(cores_per_worker=2, max_workers=1, result_of=result_of, oversubscribe=True) as exe:
            assert exe.submit(square, 3, str(counter)).result() == expected
    assert counter.value() == 4
