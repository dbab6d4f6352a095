"""`retries`: calls that have failed with certain exceptions are tried again."""

import asyncio
import itertools
import os
import time
from concurrent import futures
from pathlib import Path

import pytest

import pympipool
from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import add, square
from support.waiting import wait_until

pytestmark = [
    pytest.mark.anywhere,
    pytest.mark.only_at("this machine", "tcp", reason="the calls count in a file, which other hosts may not see"),
]


def fail_first(path, times, kind=OSError):
    """Fail the first times; return the number of the attempt."""
    with open(path, "a") as file:
        file.write("x")
    attempt = Path(path).stat().st_size
    if attempt <= times:
        raise kind(f"attempt {attempt}")
    return attempt


def sleep_first(path):
    if fail_first(path, 0) == 1:
        time.sleep(60)
    return "in time"


def die(path):
    fail_first(path, 0)
    os._exit(3)


def fail_first_on_each_rank(folder):
    from mpi4py import MPI

    return fail_first(f"{folder}/{MPI.COMM_WORLD.Get_rank()}", 1)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "attempts")


def waits_for_its_next_attempt(call):
    wait_until(lambda: call.attempts == 2)
    assert not call.running()
    assert not call.done()
    return True


def test_call_is_tried_until_it_returns(make_executor, path):
    call = make_executor(retries=3, retry_on=(KeyError, OSError)).submit(fail_first, path, 2)
    assert call.result() == 3
    assert call.attempts == 3
    assert [str(error) for error in call.retried_errors] == ["attempt 1", "attempt 2"]


def test_last_exception_is_that_of_the_call(make_executor, path):
    exe = make_executor(retries=2, retry_delay=0.01)
    call = exe.submit(fail_first, path, 9)
    with pytest.raises(OSError, match="attempt 3"):
        call.result()
    assert call.attempts == 3
    assert len(call.retried_errors) == 2
    assert exe.submit(square, 3).result() == 9


def test_other_exceptions_end_the_call(make_executor, path):
    call = make_executor(retries=2, retry_on=KeyError).submit(fail_first, path, 9)
    with pytest.raises(OSError, match="attempt 1"):
        call.result()
    assert (call.attempts, call.retried_errors) == (1, [])


def test_subclasses_of_the_exception_count(make_executor, path):
    assert make_executor(retries=1, retry_on=LookupError).submit(fail_first, path, 1, KeyError).result() == 2


def test_without_retries_nothing_is_tried_again(executor, path):
    call = executor.submit(fail_first, path, 1)
    assert isinstance(call.exception(), OSError)
    assert call.attempts == 1


def test_single_call_has_retries_of_its_own(executor, path):
    call = executor.submit(fail_first, path, 1, resource_dict={"retries": 1, "retry_on": OSError, "retry_delay": 0.01})
    assert call.result() == 2


def test_waiting_for_a_retry_holds_no_worker(make_executor, path):
    exe = make_executor(retries=1, retry_delay=60)
    call = exe.submit(fail_first, path, 1)
    assert exe.submit(square, 3).result() == 9
    assert waits_for_its_next_attempt(call)
    assert exe.submit(square, 4).result() == 16
    assert len(exe) == 1
    assert call.cancel()
    assert len(exe) == 0


def test_waiting_call_can_be_cancelled(make_executor, path):
    exe = make_executor(retries=1, retry_delay=60)
    call = exe.submit(fail_first, path, 1)
    dependent = exe.submit(square, call)
    assert waits_for_its_next_attempt(call)
    assert call.cancel()
    with pytest.raises(futures.CancelledError):
        dependent.result()
    exe.shutdown()


def test_shutdown_waits_for_the_retry(make_executor, path):
    exe = make_executor(retries=2, retry_delay=0.1)
    call = exe.submit(fail_first, path, 2)
    exe.shutdown()
    assert call.done()
    assert call.result() == 3


def test_dropped_executor_goes_on_with_retries(make_executor, opened, path):
    exe = make_executor(retries=1, retry_delay=0.1)
    call = exe.submit(fail_first, path, 1)
    exe.shutdown(wait=False)
    opened.clear()
    del exe
    assert call.result() == 2


@pytest.mark.parametrize("end", [{"cancel_futures": True}, {"kill_workers": True}])
def test_shutdown_can_cancel_the_retry(make_executor, path, end):
    exe = make_executor(retries=1, retry_delay=60)
    call = exe.submit(fail_first, path, 1)
    assert waits_for_its_next_attempt(call)
    exe.shutdown(**end)
    assert call.cancelled()


@pytest.mark.parametrize("chunksize", [None, 5])
def test_map_tries_only_the_failed_item_again(make_executor, tmp_path, chunksize):
    exe = make_executor(max_workers=2, retries=1)
    paths = [str(tmp_path / str(number)) for number in range(5)]
    results = exe.map(fail_first, paths, [0, 0, 1, 0, 1], chunksize=chunksize)
    assert list(results) == [1, 1, 2, 1, 2]


def test_dependent_call_gets_the_last_result(make_executor, path, tmp_path):
    exe = make_executor(retries=1, retry_delay=0.05)
    first = exe.submit(fail_first, path, 1)
    assert exe.submit(add, first, 10).result() == 12
    failed = exe.submit(fail_first, str(tmp_path / "other"), 9)
    dependent = exe.submit(add, failed, 10)
    with pytest.raises(OSError, match="attempt 2"):
        dependent.result()
    assert dependent.attempts == 1
    late = exe.submit(fail_first, exe.submit(str, tmp_path / "late"), 1)
    assert (late.result(), late.attempts) == (2, 2)


def test_callbacks_are_told_of_the_last_attempt(make_executor, path):
    call = make_executor(retries=2).submit(fail_first, path, 2)
    told = []
    call.add_done_callback(lambda call: told.append(call.result()))
    assert list(futures.as_completed([call])) == [call]
    assert told == [3]


def test_asyncio_waits_for_the_last_attempt(make_executor, path):
    exe = make_executor(retries=1, retry_delay=0.05)

    async def main():
        return await asyncio.wrap_future(exe.submit(fail_first, path, 1))

    assert asyncio.run(main()) == 2


def test_call_that_was_too_slow_is_tried_again(make_executor, path):
    call = make_executor(retries=9, retry_on=TimeoutError, run_time_max=3.0).submit(sleep_first, path)
    assert call.result() == "in time"  # on a busy machine not at the second attempt
    assert call.attempts >= 2


def test_death_of_a_worker_is_not_retried(make_executor, path):
    call = make_executor(retries=3).submit(die, path)
    assert isinstance(call.exception(), WorkerDied)
    assert Path(path).stat().st_size == 1


def test_running_attempt_is_cancelled_by_force(make_executor, path):
    exe = make_executor(retries=1, retry_on=TimeoutError)
    call = exe.submit(sleep_first, path)
    wait_until(call.running)
    assert not call.cancel()
    assert call.cancel(force=True)
    exe.shutdown()
    assert call.cancelled()


@pytest.mark.mpi
def test_call_of_several_ranks_is_tried_again(make_executor, tmp_path):
    exe = make_executor(cores_per_worker=2, retries=1)
    assert exe.submit(fail_first_on_each_rank, str(tmp_path)).result() == [2, 2]


def test_many_calls_are_retried(make_block_executor, tmp_path):
    exe = make_block_executor(max_workers=2, retries=3)
    times = [number % 4 for number in range(200)]
    calls = [exe.submit(fail_first, str(tmp_path / str(number)), times[number]) for number in range(200)]
    exe.shutdown(wait=False)
    assert [call.result() for call in calls] == [number + 1 for number in times]


def test_attempts_are_calls_of_a_trace(make_block_executor, path):
    exe = make_block_executor(retries=2)
    with pympipool.trace() as trace:
        exe.submit(fail_first, path, 2).result()
    names = [call.name for call in trace.timeline.calls]
    assert sorted(names) == ["fail_first", "fail_first (attempt 2)", "fail_first (attempt 3)"]


def test_serial_backend_retries_alike(path):
    with Executor(backend="serial", retries=2, retry_on=OSError, retry_delay=0.01) as exe:
        call = exe.submit(fail_first, path, 2)
        assert (call.result(), call.attempts, len(call.retried_errors)) == (3, 3, 2)
        assert isinstance(exe.submit(fail_first, path + "2", 9, KeyError).exception(), KeyError)


def test_retries_keep_no_reference_to_the_future(make_executor, path):
    import gc
    import weakref

    exe = make_executor(retries=1)
    gc.disable()
    try:
        for times in itertools.count(0):
            if times > 1:
                break
            call = exe.submit(fail_first, f"{path}{times}", times)
            call.result()
            reference = weakref.ref(call)
            del call
            wait_until(lambda reference=reference: reference() is None)
    finally:
        gc.enable()
