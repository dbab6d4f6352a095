"""`Executor.submit`: callables, arguments and results, futures, and the description of an executor."""

import functools
import operator
import os
import socket
import sys
import time
from concurrent import futures

import numpy as np
import psutil
import pytest

from pympipool import Executor
from support.calls import Base, add, cached_square, echo, hold, keywords, pid, square

pytestmark = pytest.mark.anywhere

# ---- callables ----

CALLABLES = {
    "a function": (square, (3,), 9),
    "a function of two arguments": (add, (1, 2), 3),
    "a lambda": (lambda x: x + 1, (1,), 2),
    "a builtin": (sum, ([1, 1],), 2),
    "a builtin without signature": (max, (1, 3, 2), 3),
    "a type": (int, ("17",), 17),
    "a type without signature": (dict, ([("a", 1)],), {"a": 1}),
    "a class": (Base, (3,), Base(3)),
    "an instance that can be called": (Base(3), (4,), 12),
    "a bound method": (Base(3).times, (4,), 12),
    "a class method": (Base.made, (5,), 5),
    "a static method": (Base.plain, (5,), 6),
    "a method of a builtin object": (", ".join, (["a", "b"],), "a, b"),
    "a method of a type": (str.upper, ("a",), "A"),
    "a partial": (functools.partial(add, y=10), (1,), 11),
    "a partial of a partial": (functools.partial(functools.partial(pow, 2), 3), (), 8),
    "a wrapped function": (cached_square, (4,), 16),
    "an operator": (operator.itemgetter(1), ([5, 6],), 6),
    "a function of the C library": (time.sleep, (0,), None),
    "a ufunc": (np.add, (1, 2), 3),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_any_callable_can_be_submitted(executor, name):
    function, arguments, expected = CALLABLES[name]
    assert executor.submit(function, *arguments).result() == expected


def test_a_closure_can_be_submitted(executor):
    offset = 5
    assert executor.submit(lambda x: x + offset, 1).result() == 6


@pytest.mark.parametrize("thing", [None, 3, "square", [square]])
def test_non_callable_raises_immediately(executor, thing):
    with pytest.raises(TypeError, match="callable"):
        executor.submit(thing)


def test_missing_function_raises_immediately(executor):
    with pytest.raises(TypeError):
        executor.submit()


# ---- arguments and results ----


def test_positional_and_keyword_arguments_arrive(executor):
    assert executor.submit(add, 1, y=2).result() == 3
    assert executor.submit(keywords, a=1, b=[2]).result() == {"a": 1, "b": [2]}


def test_keywords_named_like_submit_parameters_reach_function(executor):
    wanted = {"fn": 1, "self": 2, "function": 3, "args": 4, "kwargs": 5}
    assert executor.submit(keywords, **wanted).result() == wanted


VALUES = [
    None,
    True,
    -1,
    2**200,
    float("inf"),
    1 + 2j,
    "",
    "ä€𝄞\0",
    b"",
    bytes(100_000),
    bytearray(b"abc"),
    (),
    [],
    {},
    set(),
    {1: [{"a": (1, 2)}]},
    frozenset({1, 2}),
    range(5),
    slice(1, 2),
    Ellipsis,
    NotImplemented,
    int,
    np.float64(1.5),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_values_return_unchanged(executor, value):
    result = executor.submit(echo, value).result()
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (100, 30), (1000, 2000)])
@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.complex128])
def test_arrays_return_unchanged(executor, shape, dtype):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    result = executor.submit(echo, array).result()
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype


@pytest.mark.parametrize("size_bytes", [800, 800_000, 40_000_000])
def test_arrays_arrive_writable_and_private_on_both_sides(executor, size_bytes):
    array = np.zeros(size_bytes // 8)

    def change(array):
        array[:] = 1
        return array

    result = executor.submit(change, array).result()
    assert not array.any()
    assert result.all()
    result[:] = 2
    assert executor.submit(change, array).result()[0] == 1


def test_more_buffers_than_a_message_has_parts_arrive(executor):
    arrays = [np.full(2048 + 8, i) for i in range(1100)]
    results = executor.submit(echo, arrays).result()
    assert [array[0] for array in results] == list(range(1100))


def test_many_results_belong_to_their_calls(executor, many):
    calls = [executor.submit(square, i) for i in range(many(3000, 50))]
    assert [call.result() for call in calls] == [i * i for i in range(many(3000, 50))]


def test_sizes_around_record_and_ring_limits_arrive(executor):
    sizes = [2**power + offset for power in (6, 12, 16, 20, 22) for offset in (-9, -8, -1, 0, 1, 8)]
    calls = [executor.submit(echo, bytes([size % 251]) * size) for size in sizes]
    assert [call.result() for call in calls] == [bytes([size % 251]) * size for size in sizes]


# ---- the future ----


def test_submit_returns_a_future_of_the_standard_library(executor):
    call = executor.submit(square, 2)
    assert isinstance(call, futures.Future)
    assert call.result() == 4
    assert call.done()
    assert not call.running()
    assert not call.cancelled()
    assert call.exception() is None
    assert "finished" in repr(call)
    assert "int" in repr(call)


def test_a_result_is_the_same_object_each_time(executor):
    call = executor.submit(echo, [1])
    assert call.result() is call.result()


def test_running_call_reports_running(make_executor, gate):
    call = make_executor().submit(hold, gate.path, "held")
    gate.wait_until_begun()
    assert call.running()
    assert not call.done()
    assert "running" in repr(call)
    with pytest.raises(futures.TimeoutError):
        call.result(timeout=0.01)
    with pytest.raises(futures.TimeoutError):
        call.exception(timeout=0)
    gate.open()
    assert call.result() == "held"


def test_a_call_behind_another_is_not_running(make_executor, gate):
    exe = make_executor()
    first, second = exe.submit(hold, gate.path), exe.submit(square, 2)
    gate.wait_until_begun()
    assert not second.running()
    assert "pending" in repr(second)
    gate.open()
    assert second.result() == 4
    assert first.done()


def test_polling_done_terminates(executor):
    call = executor.submit(square, 3)
    while not call.done():
        pass
    assert call.result() == 9


def test_polling_result_with_zero_timeout_terminates(executor):
    call = executor.submit(square, 3)
    while True:
        try:
            assert call.result(timeout=0) == 9
            break
        except futures.TimeoutError:
            pass


def test_a_wait_that_timed_out_can_be_repeated(make_executor, gate):
    call = make_executor().submit(hold, gate.path, 5)
    for _ in range(5):
        with pytest.raises(futures.TimeoutError):
            call.result(timeout=0.005)
    gate.open()
    assert call.result(timeout=60) == 5


# ---- where calls run ----


def test_calls_run_in_other_processes(executor):
    assert executor.submit(pid).result() != os.getpid()


def test_a_worker_serves_many_calls(make_block_executor):
    exe = make_block_executor()
    assert len({exe.submit(pid).result() for _ in range(20)}) == 1


def test_workers_work_at_the_same_time(make_executor, gate):
    exe = make_executor(max_workers=3)
    calls = [exe.submit(hold, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)
    gate.open(3)
    assert len({call.result() for call in calls}) == 3


def test_concurrent_calls_never_exceed_workers(make_executor, make_gate):
    first, others = make_gate(), make_gate()
    exe = make_executor(max_workers=2)
    calls = [exe.submit(hold, first.path) for _ in range(2)]
    first.wait_until_begun(2)
    late = [exe.submit(hold, others.path) for _ in range(4)]
    assert not any(call.running() for call in late)
    first.open(2)
    others.open(4)
    assert len([call.result() for call in calls + late]) == 6


def test_workers_share_working_folder_and_modules(make_executor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exe = make_executor()
    assert exe.submit(os.getcwd).result() == str(tmp_path)
    paths = exe.submit(lambda: __import__("sys").path).result()
    missing = {os.path.abspath(path) for path in sys.path} - {os.path.abspath(path) for path in paths}
    assert missing == set()


def test_workers_run_in_the_folder_they_are_given(make_executor, tmp_path):
    assert make_executor(cwd=str(tmp_path)).submit(os.getcwd).result() == str(tmp_path)


def test_worker_environment_equals_that_of_master(make_executor, monkeypatch):
    monkeypatch.setenv("A_VARIABLE_OF_THE_USER", "7")
    environment = make_executor().submit(lambda: dict(os.environ)).result()
    assert environment["A_VARIABLE_OF_THE_USER"] == "7"
    assert [name for name in environment if name.startswith("PYMPIPOOL") and name not in os.environ] == []


def test_stdin_of_a_call_is_empty(executor):
    with pytest.raises(EOFError):
        executor.submit(input).result()


def test_output_of_calls_reaches_the_user(make_executor, capfd):
    exe = make_executor()
    exe.submit(print, "to stdout").result()
    exe.submit(lambda: print("to stderr", file=sys.stderr)).result()
    exe.submit(os.write, 1, "from below Python: ä\n".encode()).result()
    exe.shutdown()
    printed = capfd.readouterr()
    assert sorted(printed.out.splitlines()) == ["from below Python: ä", "to stdout"]
    assert "to stderr\n" in printed.err


@pytest.mark.only_at("this machine", "tcp", "slurm", reason="flux takes minutes for so many lines; see test_flux.py")
def test_output_beyond_pipe_capacity_does_not_block(make_executor, capfd):
    exe = make_executor()
    assert exe.submit(lambda: print("line\n" * 200_000, end="")).result() is None
    exe.shutdown()
    assert capfd.readouterr().out == "line\n" * 200_000


def test_call_may_use_its_own_executor(executor):
    def inner(x):
        with Executor(max_workers=1, block_allocation=True) as exe:
            return exe.submit(square, x).result()

    assert executor.submit(inner, 7).result() == 49


def test_a_call_may_start_threads_and_processes(executor):
    def work():
        import subprocess
        import sys
        import threading

        results = []
        thread = threading.Thread(target=results.append, args=(1,))
        thread.start()
        thread.join()
        return results, subprocess.run(
            [sys.executable, "-c", "print(2)"], capture_output=True, text=True, check=True
        ).stdout

    assert executor.submit(work).result() == ([1], "2\n")


# ---- the description of an executor ----


def test_an_executor_is_one_of_the_standard_library(executor):
    assert isinstance(executor, futures.Executor)


def test_idle_executor_is_truthy_with_length_zero(make_executor):
    exe = make_executor()
    assert len(exe) == 0
    assert exe


def test_length_is_number_of_waiting_calls(make_executor, gate, many):
    exe = make_executor()
    calls = [exe.submit(hold, gate.path)]
    gate.wait_until_begun()
    count = many(3000, 20)
    calls += [exe.submit(square, i) for i in range(count)]
    assert count / 3 < len(exe) <= count  # the worker may have prefetched some
    gate.open()
    for call in calls:
        call.result()
    assert len(exe) == 0


@pytest.mark.only_at("this machine", reason="it names the backend")
def test_info_has_the_options_of_the_executor(make_executor):
    exe = make_executor(max_workers=2)
    assert exe.info["max_workers"] == 2
    assert exe.info["cores_per_worker"] == 1
    assert exe.info["max_cores"] == 2
    assert exe.info["backend"] == "mpi"


@pytest.mark.only_at("this machine", reason="it compares process ids of this machine")
def test_info_names_the_workers(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    workers = exe.info["workers"]
    gate.open(2)
    assert {worker["pid"] for worker in workers} == {call.result() for call in calls}
    assert {worker["host"] for worker in workers} == {socket.gethostname()}


def test_repr_describes_executor(make_executor):
    shown = repr(make_executor(max_workers=3))
    assert shown.startswith("<Executor")
    assert "3" in shown


# ---- wrong parameters ----


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_workers": 0}, "max_workers must be greater than 0"),
        ({"max_workers": -1}, "max_workers must be greater than 0"),
        ({"max_cores": 0}, "max_cores must be greater than 0"),
        ({"max_workers": 1, "cores_per_worker": 0}, "cores_per_worker"),
        ({"max_workers": 2, "max_cores": 3}, "max_cores"),
        ({"max_cores": 1, "cores_per_worker": 2}, "cores_per_worker"),
        ({"max_workers": 1, "backend": "slum"}, "slum"),
    ],
    ids=str,
)
def test_wrong_values_raise_immediately_and_leave_nothing(block_allocation, parameters, words):
    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match=words):
        Executor(**parameters, block_allocation=block_allocation)
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_workers": "2"},
        {"max_workers": 1.5},
        {"max_workers": 1, "cores_per_worker": "2"},
        {"max_workers": 1, "backend": 3},
        {"max_workers": 1, "no_such_parameter": 1},
    ],
    ids=str,
)
def test_wrong_types_raise_immediately_and_leave_nothing(block_allocation, parameters):
    before = set(psutil.Process().children())
    with pytest.raises(TypeError, match=list(parameters)[-1]):
        Executor(**parameters, block_allocation=block_allocation)
    assert set(psutil.Process().children()) <= before


def test_missing_folder_raises_without_hanging(block_allocation, tmp_path):
    missing = str(tmp_path / "missing")
    with (
        pytest.raises(Exception, match="missing"),
        Executor(max_workers=1, cwd=missing, block_allocation=block_allocation) as exe,
    ):
        exe.submit(square, 1).result()


# ---- mistakes of similar libraries ----


@pytest.mark.only_at("this machine", reason="workers elsewhere need a port")
def test_executors_of_local_workers_open_no_network_port(executor):
    def listening():
        import psutil

        return [kind.laddr for kind in psutil.Process().net_connections("inet")]

    assert executor.submit(listening).result() == []
    assert psutil.Process().net_connections("inet") == []


def test_the_standard_librarys_resource_tracker_is_not_used(executor):
    def tracker_runs():
        from multiprocessing import resource_tracker

        return resource_tracker._resource_tracker._fd is not None

    assert executor.submit(tracker_runs).result() is False


def test_futures_in_keywords_and_lists_are_resolved(executor):
    one = executor.submit(square, 1)
    assert executor.submit(add, 1, y=one).result() == 2
    assert executor.submit(sum, [one, executor.submit(square, 2), 3]).result() == 8


def test_failed_input_fails_call_without_hanging(executor):
    call = executor.submit(add, executor.submit(divmod, 1, 0), 1)
    with pytest.raises(ZeroDivisionError):
        call.result()
    assert executor.submit(square, 2).result() == 4


def test_an_init_function_that_raises_fails_the_calls(make_block_executor):
    def init():
        raise LookupError("no data here")

    call = make_block_executor(init_function=init).submit(square, 1)
    with pytest.raises(futures.BrokenExecutor, match="no data here") as error:
        call.result()
    assert isinstance(error.value.__cause__, LookupError)


def test_init_function_fills_missing_parameters(make_block_executor):
    def init():
        return {"j": 4, "k": 3, "l": 2}

    def calc(i, j, k):
        return i + j + k

    assert make_block_executor(init_function=init).submit(calc, 2, j=5).result() == 10
