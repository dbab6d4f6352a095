"""Calls, maps and dependencies."""

import faulthandler
import os
import sys
import time

import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.waiting import wait_until

LIMIT_S = 60


def add(a, b):
    return a + b


def test_calls_return_their_results(make):
    exe = make()
    assert [call.result(LIMIT_S) for call in [exe.submit(pow, 2, n) for n in range(10)]] == [2**n for n in range(10)]


def test_workers_are_other_processes(make):
    exe = make()
    assert exe.submit(os.getpid).result(LIMIT_S) != os.getpid()


def test_functions_of_tests_travel_by_value(make):
    exe = make()
    offset = 5
    assert exe.submit(lambda x: x + offset, 1).result(LIMIT_S) == 6


def test_map_keeps_the_order(make):
    exe = make()
    assert list(exe.map(add, range(50), range(50), chunksize=7)) == [2 * n for n in range(50)]


def test_futures_are_arguments(make):
    exe = make()
    first = exe.submit(add, 1, 2)
    second = exe.submit(add, first, 3)
    assert exe.submit(add, first, second).result(LIMIT_S) == 9


def test_large_messages_arrive_whole(make):
    exe = make()
    data = bytes(range(256)) * 80_000
    assert exe.submit(bytes, data).result(LIMIT_S) == data


def test_init_function_gives_arguments():
    with Executor(max_workers=1, block_allocation=True, backend="mpi", init_function=lambda: {"b": 40}) as exe:
        assert exe.submit(add, 2, resource_dict=None).result(LIMIT_S) == 42


def fail(text):
    raise KeyError(text)


def test_exceptions_arrive_with_their_traceback(make):
    exe = make()
    error = exe.submit(fail, "nothing").exception(LIMIT_S)
    assert type(error) is KeyError
    assert error.args == ("nothing",)
    assert "in fail" in str(error.__cause__)


def test_dead_worker_fails_its_call_alone(make):
    exe = make()
    with pytest.raises(WorkerDied, match="exit code 7"):
        exe.submit(os._exit, 7).result(LIMIT_S)
    assert exe.submit(pow, 2, 5).result(LIMIT_S) == 32


def test_crash_is_named_and_opens_no_window(make):
    msvcrt = pytest.importorskip("msvcrt", reason="on other systems signals tell of a crash")
    exe = make()
    assert exe.submit(msvcrt.GetErrorMode).result(LIMIT_S) & msvcrt.SEM_NOGPFAULTERRORBOX
    with pytest.raises(WorkerDied, match=r"exit code 0xc0000005 \(access violation\)"):
        exe.submit(faulthandler._read_null).result(LIMIT_S)


def complain_and_die():
    print("the last words", file=sys.stderr)
    os._exit(3)


def test_last_lines_of_a_dead_worker_are_quoted(make):
    exe = make()
    error = exe.submit(complain_and_die).exception(LIMIT_S)
    assert isinstance(error, WorkerDied)
    assert error.last_stderr == ("the last words",)


def test_running_call_is_cancelled_by_force(make):
    exe = make(max_workers=1)
    call = exe.submit(time.sleep, 600)
    wait_until(call.running)
    assert call.cancel(force=True)
    assert exe.submit(pow, 2, 5).result(LIMIT_S) == 32


def test_output_of_workers_is_printed(make, capfd):
    exe = make()
    exe.submit(print, "from a worker").result(LIMIT_S)
    exe.shutdown()
    assert capfd.readouterr().out == "from a worker\n"


def test_arrays_travel(make):
    numpy = pytest.importorskip("numpy")
    exe = make()
    array = numpy.arange(300_000.0)
    result = exe.submit(lambda a: a * 2, array).result(LIMIT_S)
    assert (result == array * 2).all()
