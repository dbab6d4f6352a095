"""`map` with a cache: calls are answered together, and the others travel in batches as without one."""

import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pympipool import get_cache_data, shared_array

OPTIONS = [{}, {"chunksize": 4}]


def count(ran):
    return Counter(map(int, Path(ran).read_text().split()))


def note(x, ran):
    descriptor = os.open(ran, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"%d\n" % x)
    os.close(descriptor)


def square(x, ran):
    note(x, ran)
    return x * x


def fail_at_5(x, ran):
    note(x, ran)
    if x == 5:
        raise ValueError("as asked for")
    return x * x


def refuse_single_calls(*_, **__):
    raise AssertionError("a call of a map was sent by itself")


@pytest.fixture
def make_batches(make_block, monkeypatch):
    """Make an executor that sends no single calls."""

    def make(**more):
        exe = make_block(**more)
        monkeypatch.setattr(exe, "submit", refuse_single_calls)
        return exe

    return make


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("known", [range(0), range(10), range(5, 15), range(0, 30, 3), range(30)], ids=str)
def test_answers_and_results_come_in_order(make_batches, ran, options, known):
    with make_batches() as exe:
        assert list(exe.map(square, known, [ran] * 30, **options)) == [x * x for x in known]
        assert list(exe.map(square, range(30), [ran] * 30, **options)) == [x * x for x in range(30)]
        assert sorted(exe.map(square, range(30), [ran] * 30, unordered=True, **options)) == [x * x for x in range(30)]
    with make_batches() as exe:
        assert list(exe.map(square, range(30), [ran] * 30)) == [x * x for x in range(30)]
    assert count(ran) == dict.fromkeys(range(30), 1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_unordered_results_are_those_of_all_calls(make_batches, ran, options):
    with make_batches() as exe:
        assert list(exe.map(square, range(0, 30, 3), [ran] * 10)) == [x * x for x in range(0, 30, 3)]
        results = exe.map(square, range(30), [ran] * 30, unordered=True, **options)
        assert sorted(results) == [x * x for x in range(30)]
    assert count(ran) == dict.fromkeys(range(30), 1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_came_before_an_exception_is_kept(make_batches, ran, options):
    for numbers, expected in (([3, 7], [3, 7]), (range(10), [0, 1, 2, 3, 4])):
        with make_batches(max_workers=1) as exe:
            results = exe.map(fail_at_5, numbers, [ran] * 10, **options)
            assert [next(results) for _ in expected] == [x * x for x in expected]
            if 5 in numbers:
                with pytest.raises(ValueError, match="as asked for"):
                    next(results)
    with make_batches(max_workers=1) as exe:
        before = count(ran)
        assert list(exe.map(fail_at_5, [0, 1, 2, 3, 4, 7], [ran] * 6)) == [0, 1, 4, 9, 16, 49]
        assert count(ran) == before


def test_single_calls_and_maps_answer_each_other(make_block, ran):
    with make_block() as exe:
        assert [exe.submit(square, x, ran).result() for x in range(5)] == [0, 1, 4, 9, 16]
        assert list(exe.map(square, range(10), [ran] * 10)) == [x * x for x in range(10)]
        assert [exe.submit(square, x, ran).result() for x in range(10)] == [x * x for x in range(10)]
    assert count(ran) == dict.fromkeys(range(10), 1)


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x

    __hash__ = None


def local_point(x):
    class Local(Point):
        pass

    return Local(x)


@pytest.mark.parametrize(
    "function",
    [
        float,
        lambda x: {"x": [x, (x, None)]},
        lambda x: np.full(20, x),
        lambda x: np.full(50_000, x),
        lambda x: [np.full(50_000, x), np.float64(x)],
        Point,
        local_point,
        lambda x: "text" * 2000 * x,
    ],
    ids=["number", "container", "small array", "array", "arrays", "instance", "local instance", "text"],
)
def test_results_of_all_kinds_are_kept(make_batches, tmp_path, function):
    numbers = list(range(1, 9))
    with make_batches(max_workers=1) as exe:
        first = list(exe.map(function, numbers))
    assert len(get_cache_data(tmp_path / "cache", results=False)) == 8
    with make_batches() as exe:
        exe._engine.submit_batch = refuse_single_calls
        second = list(exe.map(function, numbers))
    for x, one, other in zip(numbers, first, second, strict=True):
        expected = function(x)
        assert np.all(one == expected) if isinstance(expected, np.ndarray) else str(one)[:20] == str(expected)[:20]
        assert str(vars(other) if hasattr(other, "__dict__") else other) == str(
            vars(expected) if hasattr(expected, "__dict__") else expected
        )


@pytest.mark.parametrize("size", [1, 4])
def test_large_results_of_batches_travel_from_late_workers(make_executor, size):
    """A worker of one call gets it when it has connected: the future has its entry by then, and batches leave no files."""
    for _ in range(2):
        with make_executor() as exe:
            results = exe.map(lambda x: str(x) * 5000, range(size), chunksize=4)
            assert list(results) == [str(x) * 5000 for x in range(size)]


def test_changes_to_results_never_reach_the_disk(make_batches):
    for _ in range(2):
        with make_batches() as exe:
            for x, array in enumerate(exe.map(np.full, [20_000] * 20, range(20))):
                assert (array == x).all()
                array[:] = -1


def test_arguments_are_shown(make_block, tmp_path):
    with make_block() as exe:
        assert list(exe.map(pow, [2, 3], [3, 2])) == [8, 9]
        assert list(exe.map(len, [np.ones(3), np.ones((5, 2), "f4")])) == [3, 5]
        assert list(exe.map(repr, [np.float64(1.5), np.array([b"x"]), np.array([None])]))
        assert list(exe.map(np.ndim, [np.datetime64("2026-01-01")])) == [0]
    shown = sorted((call["function"], call["arguments"]) for call in get_cache_data(tmp_path / "cache"))
    assert shown == [
        ("len", "<ndarray float32 (5, 2)>"),
        ("len", "[1.0, 1.0, 1.0]"),
        ("ndim", "<datetime64 datetime64[D] ()>"),
        ("pow", "2, 3"),
        ("pow", "3, 2"),
        ("repr", "1.5"),
        ("repr", "<ndarray object (1,)>"),
        ("repr", "[b'x']"),
    ]


class Quantity(np.ndarray):
    def tolist(self):
        raise NotImplementedError


def test_no_code_of_arguments_shows_them(make_block, tmp_path):
    with make_block() as exe:
        assert exe.submit(np.ndim, np.float64(5).reshape(1).view(Quantity)).result() == 1
    assert [call["arguments"] for call in get_cache_data(tmp_path / "cache")] == ["<Quantity (1,)>"]


def test_futures_among_the_arguments_have_keys(make_block, ran):
    for _ in range(2):
        with make_block() as exe:
            inputs = [exe.submit(square, x, ran) for x in range(4)]
            assert list(exe.map(square, inputs, [ran] * 4)) == [0, 1, 16, 81]
    assert sum(count(ran).values()) == 8


def test_calls_without_a_key_run(make_block):
    def locked(lock):
        return lock.locked()

    for _ in range(2):
        with (
            make_block() as exe,
            pytest.warns(UserWarning, match="not cached"),
            pytest.raises(Exception, match="pickle"),
        ):
            list(exe.map(locked, [threading.Lock()]))


def test_calls_that_write_shared_arrays_run(make_block):
    def write(array, number):
        array[number] += 1

    array = shared_array(3)
    for _ in range(2):
        with make_block() as exe, pytest.warns(UserWarning, match="shared memory"):
            list(exe.map(write, [array] * 3, range(3)))
    assert list(array) == [2, 2, 2]


def test_the_progress_bar_counts_answers(make_block, ran, capsys):
    pytest.importorskip("tqdm", reason="pip install tqdm")
    with make_block() as exe:
        assert list(exe.map(square, range(10), [ran] * 10)) == [x * x for x in range(10)]
        assert list(exe.map(square, range(20), [ran] * 20, progress=True)) == [x * x for x in range(20)]
    assert "20/20" in capsys.readouterr().err


def test_closed_executors_answer_no_map(make_block, ran):
    with make_block() as exe:
        assert list(exe.map(square, range(3), [ran] * 3)) == [0, 1, 4]
    with pytest.raises(RuntimeError, match="shutdown"):
        exe.map(square, range(3), [ran] * 3)


def test_arrays_stay_read_only(make_batches):
    arrays = [np.arange(20_000) for _ in range(4)]
    for array in arrays[::2]:
        array.flags.writeable = False
    with make_batches() as exe:
        assert list(exe.map(lambda array: array.flags.writeable, arrays)) == [False, True] * 2


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_argument_stays_the_object_of_the_function(make_block, options):
    def session(ask):
        values = [1]

        def extend(others):
            values.append(2)
            return len(others)

        with make_block() as exe:
            return ask(exe, extend, values)

    assert session(lambda exe, fn, values: list(exe.map(fn, [values] * 2, **options))) == [2, 2]
    assert session(lambda exe, fn, values: exe.submit(fn, values).result()) == 2


def test_an_empty_map_has_no_results(make_block):
    with make_block() as exe:
        assert list(exe.map(square, [], [])) == []
