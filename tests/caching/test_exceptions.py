"""Exceptions in the cache, for calls that ask for it."""

import os
import time

import pytest

from pympipool import Executor, get_cache_data, get_future_from_cache
from pympipool.errors import WorkerDied
from support.calls import hold

KEPT = {"cache_exceptions": True}


class NotConvergedError(Exception):
    def __init__(self, steps, text="x" * 10_000):
        self.steps = steps
        super().__init__(text)


def fail(steps, ran):
    with open(ran, "a") as file:
        file.write(".")
    raise NotConvergedError(steps)


def count(ran):
    return os.path.getsize(ran)


def test_a_kept_exception_is_the_answer(make_executor, ran):
    for _ in range(3):
        with make_executor() as exe:
            future = exe.submit(fail, 5, ran, resource_dict=KEPT)
            with pytest.raises(NotConvergedError, match="xxx") as raised:
                future.result()
            assert raised.value.steps == 5
            assert type(future.exception()) is NotConvergedError
    assert "in fail" in str(raised.value.__cause__)
    assert count(ran) == 1


def test_exceptions_are_kept_that_were_read_first(make_block, ran):
    for _ in range(2):
        with make_block() as exe:
            future = exe.submit(fail, 5, ran, resource_dict=KEPT)
            for _ in range(2):
                with pytest.raises(NotConvergedError):
                    raise future.exception()
    assert count(ran) == 1


def test_only_calls_that_ask_for_it_keep_exceptions(make_executor, ran):
    for _ in range(2):
        with make_executor() as exe, pytest.raises(NotConvergedError):
            exe.submit(fail, 5, ran).result()
    assert count(ran) == 2


def test_calls_with_a_failed_input_are_not_kept(make_executor, ran):
    for _ in range(2):
        with make_executor() as exe:
            first = exe.submit(fail, 5, ran, resource_dict=KEPT)
            second = exe.submit(abs, first, resource_dict=KEPT)
            assert type(second.exception()) is NotConvergedError
            exe.submit(abs, -1).result()
            assert len(get_cache_data(exe.info["cache_directory"])) <= 2
    assert sorted(call["function"] for call in get_cache_data(exe.info["cache_directory"])) == ["abs", "fail"]


def test_deaths_of_workers_are_not_kept(make_block, ran):
    for _ in range(2):
        with make_block() as exe, pytest.raises(WorkerDied):
            exe.submit(os._exit, 3, resource_dict=KEPT).result()


def test_time_limits_are_not_kept(tmp_path):
    for _ in range(2):
        with Executor(max_workers=1, cache_directory=tmp_path / "cache") as exe, pytest.raises(TimeoutError):
            exe.submit(time.sleep, 60, resource_dict={**KEPT, "run_time_max": 0.2}).result()
    assert get_cache_data(tmp_path / "cache") == []


def test_cancelled_calls_are_not_kept(make_block, tmp_path, gate):
    with make_block(max_workers=1) as exe:
        running = exe.submit(hold, gate.path)
        gate.wait_until_begun()
        waiting = exe.submit(fail, 1, "", resource_dict=KEPT)
        assert waiting.cancel()
        gate.open()
        running.result()
    assert {call["function"] for call in get_cache_data(tmp_path / "cache")} == {"hold"}


def test_maps_and_readers_get_the_exception(make_block, ran, tmp_path):
    with make_block() as exe:
        assert exe.submit(fail, 5, ran, resource_dict=KEPT).exception() is not None
    with make_block() as exe, pytest.raises(NotConvergedError):
        list(exe.map(fail, [5], [ran]))
    assert count(ran) == 1
    (call,) = get_cache_data(tmp_path / "cache")
    assert type(call["result"]) is NotConvergedError
    assert get_future_from_cache(tmp_path / "cache", call["key"]).exception().steps == 5
