"""`Executor.map`: order, chunks, timeouts, and cancellation of the remaining calls after a failure."""

from concurrent import futures

import pytest

from support.calls import add, divide, do, echo, hold_or_square, pid, square, touch

pytestmark = pytest.mark.anywhere


def test_results_come_in_the_order_of_the_arguments(executor, many):
    assert list(executor.map(square, range(many(500, 20)))) == [i * i for i in range(many(500, 20))]


def test_order_holds_when_first_call_is_slowest(make_executor, gate):
    exe = make_executor(max_workers=2)
    results = exe.map(hold_or_square, [gate.path] * 20, range(20), [0] * 20)
    gate.wait_until_begun()
    gate.open()
    assert list(results) == [i * i for i in range(20)]


def test_several_iterables_end_with_the_shortest(executor):
    assert list(executor.map(add, [1, 2, 3], iter([10, 20]))) == [11, 22]


@pytest.mark.parametrize("iterables", [(), ([],), ([1, 2], [])], ids=str)
def test_empty_iterable_gives_no_results(executor, iterables):
    assert list(executor.map(square, *iterables)) == []


def test_results_are_consumed_lazily(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold_or_square, [gate.path] * 3, range(3), [2] * 3)
    assert next(results) == 0
    assert next(results) == 1
    gate.wait_until_begun()
    gate.open()
    assert list(results) == [4]


def test_all_calls_are_submitted_before_results_are_requested(make_executor, tmp_path):
    exe = make_executor()
    exe.map(touch, [tmp_path / str(i) for i in range(10)])
    exe.shutdown()
    assert {path.name for path in tmp_path.iterdir()} == {str(i) for i in range(10)}


def test_an_iterable_that_raises_raises_in_map(executor):
    def numbers():
        yield 1
        raise LookupError("no more numbers")

    with pytest.raises(LookupError, match="no more numbers"):
        executor.map(square, numbers())


# ---- chunks ----


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 10_000])
def test_chunks_change_nothing_in_the_results(executor, chunksize, many):
    numbers = range(many(100, 20))
    assert list(executor.map(add, numbers, numbers, chunksize=chunksize)) == [2 * i for i in numbers]


def test_calls_of_one_chunk_share_a_worker(make_executor):
    pids = list(make_executor(max_workers=2).map(pid, range(40), chunksize=10))
    assert all(len(set(pids[i : i + 10])) == 1 for i in range(0, 40, 10))


def append_and_count(items, _):
    items.append(0)
    return len(items)


def count_up(array, _):
    array += 1
    return int(array[0])


LAST = {}
BUFFER = bytearray(40_000)


def remember(number):
    LAST["number"] = number
    return LAST


def write_down(number):
    BUFFER[0] = number
    return memoryview(BUFFER)[:20_000]


@pytest.mark.parametrize("wrapped", [False, True])
def test_call_cannot_see_argument_changed_by_another(executor, wrapped):
    items = []
    shared = [([items],)] if wrapped else [items]
    function = count_of_first if wrapped else append_and_count
    assert list(executor.map(function, shared * 40, range(40))) == [1] * 40


def count_of_first(wrapped, _):
    return append_and_count(wrapped[0][0], _)


def test_call_cannot_see_array_changed_by_another(executor):
    numpy = pytest.importorskip("numpy", reason="numpy is not installed: pip install numpy")
    assert list(executor.map(count_up, [numpy.zeros(5000)] * 40, range(40))) == [1] * 40


@pytest.mark.parametrize("chunksize", [None, 1, 20])
def test_results_keep_their_value_at_return(executor, chunksize):
    results = executor.map(remember, range(40), chunksize=chunksize)
    assert [result["number"] for result in results] == list(range(40))
    results = executor.map(write_down, range(40), chunksize=chunksize)
    assert [result[0] for result in results] == list(range(40))


def first_of(items):
    return next(iter(items))


@pytest.mark.parametrize("chunksize", [None, 1, 2, 100])
def test_stop_iteration_in_call_does_not_shift_results(executor, chunksize):
    results = executor.map(first_of, [[1], [2], [], [4], [5]], chunksize=chunksize)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(results)


@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_below_one_raises_immediately(executor, chunksize):
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(square, [1], chunksize=chunksize)


@pytest.mark.parametrize("chunksize", [1.0, "1"])
def test_chunksize_must_be_an_integer(executor, chunksize):
    with pytest.raises(TypeError, match="chunksize"):
        executor.map(square, [1], chunksize=chunksize)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_results_before_the_failed_chunk_come_first(executor, chunksize):
    results = executor.map(divide, [1] * 9, [1, 1, 1, 1, 0, 1, 1, 1, 1], chunksize=chunksize)
    for _ in range(3):
        assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        list(results)


def test_failed_iterator_is_exhausted(executor):
    results = executor.map(divide, [1, 1], [0, 1])
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


# ---- cancellation ----


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    return [folder / str(i) for i in range(50)]


def test_an_error_cancels_the_rest(make_executor, gate, files):
    exe = make_executor()
    results = exe.map(do, ["fail", "hold", *["touch"] * 50], ["first", gate.path, *files])
    gate.wait_until_begun()
    with pytest.raises(ValueError, match="first"):
        next(results)
    gate.open()
    exe.shutdown()
    assert not any(file.exists() for file in files)


def test_closing_a_used_iterator_cancels_the_rest(make_executor, gate, files):
    exe = make_executor()
    results = exe.map(do, ["touch", "hold", *["touch"] * 49], [files[0], gate.path, *files[1:]])
    assert next(results) == files[0]
    gate.wait_until_begun()
    results.close()
    gate.open()
    exe.shutdown()
    assert [file.exists() for file in files] == [True] + [False] * 49


def test_timeout_cancels_the_rest(make_executor, gate, files):
    exe = make_executor()
    results = exe.map(do, ["hold", *["touch"] * 50], [gate.path, *files], timeout=0.05)
    gate.wait_until_begun()
    with pytest.raises(futures.TimeoutError):
        next(results)
    gate.open()
    exe.shutdown()
    assert not any(file.exists() for file in files)


# ---- timeouts ----


def test_timeout_not_reached_changes_nothing(executor):
    assert list(executor.map(square, range(10), timeout=50)) == [i * i for i in range(10)]


def test_timeout_counts_from_call_of_map(make_executor, gate):
    exe = make_executor()
    results = exe.map(hold_or_square, [gate.path] * 3, range(3), [1] * 3, timeout=1e-9)
    gate.wait_until_begun()
    with pytest.raises(futures.TimeoutError):
        list(results)


def test_executor_works_after_map_timeout(make_executor, gate):
    exe = make_executor()
    with pytest.raises(futures.TimeoutError):
        list(exe.map(hold_or_square, [gate.path] * 2, range(2), [0] * 2, timeout=0.01))
    gate.open()
    assert exe.submit(square, 3).result() == 9


# ---- more ----


def test_map_in_a_call_is_refused_after_shutdown(make_executor):
    exe = make_executor()
    exe.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        exe.map(square, [1, 2])


def test_map_results_are_available_after_shutdown(make_executor):
    exe = make_executor()
    results = exe.map(square, range(20))
    exe.shutdown()
    assert list(results) == [i * i for i in range(20)]


def test_two_maps_at_a_time_do_not_mix(executor, many):
    count = many(100, 20)
    squares, echoes = executor.map(square, range(count)), executor.map(echo, range(count))
    assert [(a, b) for a, b in zip(squares, echoes, strict=True)] == [(i * i, i) for i in range(count)]
