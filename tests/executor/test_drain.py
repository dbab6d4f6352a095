"""`Executor.drain`: what runs ends, and the rest is handed back."""

import pickle
import signal
from concurrent import futures
from functools import partial

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import DrainedError
from support.calls import add, fail, hold, hold_or_square, square
from support.waiting import wait_until

pytestmark = pytest.mark.anywhere


def test_running_call_ends_others_are_handed_back(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = [exe.submit(square, number) for number in range(20)]
    dependent = exe.submit(add, running)
    dependents = [exe.submit(add, waiting[0], y=waiting[1]) for _ in range(2)]
    exe.drain()
    for call in [*waiting, dependent, *dependents]:
        assert isinstance(call.exception(60), DrainedError)
    assert waiting[0].exception().left == {"square": 20, "add": 3}
    assert str(waiting[0].exception()) == (
        "square() has not begun: its executor was drained; 23 calls are left: square() 20 times, add() 3 times"
    )
    assert dependent.exception().function == "add"
    assert not running.done()
    gate.open()
    assert running.exception(60) is None
    exe.shutdown()


def test_call_after_drain_is_handed_back(make_executor):
    exe = make_executor()
    assert exe.submit(square, 3).result() == 9
    exe.drain()
    exe.drain()
    late = exe.submit(square, 4)
    assert str(late.exception(60)) == "this call has not begun: its executor was drained"
    dependent = exe.submit(square, late)
    assert isinstance(dependent.exception(60), DrainedError)
    with pytest.raises(futures.CancelledError):
        late.result()


@pytest.mark.only_at("this machine", reason="it looks for processes of this machine")
def test_workers_of_a_drained_executor_end(make_block_executor):
    exe = make_block_executor(2)
    assert list(exe.map(square, range(4))) == [0, 1, 4, 9]
    workers = [psutil.Process(worker["pid"]) for worker in exe.info["workers"]]
    exe.drain()
    psutil.wait_procs(workers, 60)
    assert not any(worker.is_running() for worker in workers)
    exe.max_workers = 3  # starts none
    assert isinstance(exe.submit(square, 1).exception(60), DrainedError)


@pytest.mark.only_at("this machine", reason="it sends a signal to the script")
def test_signal_handler_drains_while_the_script_waits(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = exe.submit(square, 3)
    before = signal.signal(signal.SIGUSR1, lambda *_: exe.drain())
    try:
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(DrainedError, match=r"^square\(\) has not begun"):
            waiting.result(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    gate.open()
    running.result(60)


@pytest.mark.parametrize("options", [{}, {"chunksize": 5}, {"unordered": True}, {"buffersize": 3}], ids=str)
def test_map_ends_with_what_is_left(make_executor, gate, options):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    results = exe.map(square, range(1000), **options)
    exe.drain()
    with pytest.raises(DrainedError) as error:
        list(results)
    left = 3 if "buffersize" in options else 1000
    assert error.value.left == {"square": left}
    gate.open()
    running.result(60)


def test_map_returns_what_came_before(make_block_executor, gate):
    exe = make_block_executor(2)
    results = exe.map(add, [1, 2, 3], [exe.submit(square, 1), exe.submit(hold, gate.path), 0])
    assert next(results) == 2
    exe.drain()
    gate.open()
    with pytest.raises(DrainedError, match=r"add\(\) has not begun"):
        next(results)


def test_call_between_two_attempts_is_handed_back(make_executor):
    exe = make_executor()
    call = exe.submit(fail, resource_dict={"retries": 5, "retry_delay": 3600})
    wait_until(lambda: call.attempts == 2)
    exe.drain()
    assert isinstance(call.exception(60), DrainedError)
    assert call.exception().left == {"fail": 1}
    assert len(call.retried_errors) == 1


def test_failed_call_is_not_tried_again(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold_and_fail, gate.path, resource_dict={"retries": 5})
    gate.wait_until_begun()
    exe.drain()
    assert isinstance(exe.submit(square, 1).exception(60), DrainedError)
    gate.open()
    with pytest.raises(ValueError, match="after the gate"):
        call.result(60)


def hold_and_fail(path):
    hold(path)
    raise ValueError("after the gate")


def test_calls_of_starting_workers_are_handed_back(make_executor):
    exe = make_executor(2)
    calls = [exe.submit(square, number) for number in range(200)]
    exe.drain()
    exe.shutdown()
    errors = [call.exception(0) for call in calls]
    assert {type(error) for error in errors} <= {DrainedError, type(None)}
    handed_back = [error for error in errors if error is not None]
    assert handed_back
    assert {str(error) for error in handed_back} == {str(handed_back[0])}
    assert handed_back[0].left == {"square": len(handed_back)}


@pytest.mark.mpi
def test_call_of_several_ranks_ends(make_executor, gate):
    exe = make_executor(cores_per_worker=2)
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun(2)
    waiting = exe.submit(square, 3)
    exe.drain()
    assert isinstance(waiting.exception(60), DrainedError)
    gate.open(2)
    assert len(running.result(60)) == 2


def test_drained_while_it_is_shut_down(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = exe.submit(square, 3)
    exe.shutdown(wait=False)
    exe.drain()
    assert isinstance(waiting.exception(60), DrainedError)
    gate.open()
    running.result(60)
    exe.drain()  # does nothing more
    exe.shutdown()


@pytest.mark.only_at("this machine", reason="it kills a process of this machine")
def test_worker_that_dies_meanwhile_leaves_no_call(make_executor, gate):
    exe = make_executor(restart_limit=3)
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    exe.drain()
    assert isinstance(exe.submit(square, 1).exception(60), DrainedError)
    psutil.Process(exe.info["workers"][0]["pid"]).kill()
    assert isinstance(running.exception(60), DrainedError)
    assert running.exception().left == {"hold": 1}


def test_serial_executor_takes_no_more_calls():
    with Executor(backend="serial") as exe:
        exe.drain()
        with pytest.raises(RuntimeError):
            exe.submit(square, 1)


def test_error_travels():
    error = pickle.loads(pickle.dumps(DrainedError("solve", {"solve": 2})))
    assert (error.function, error.left) == ("solve", {"solve": 2})
    assert str(error) == str(DrainedError("solve", {"solve": 2}))


def test_map_submits_no_batches_after_drain(make_block_executor, gate, monkeypatch):
    """The first batch ends between `drain` and the hand-back."""
    exe = make_block_executor()
    results = exe.map(partial(hold_or_square, gate.path, held=0), range(2000))
    gate.wait_until_begun()
    pool = exe._engine.pool
    drain, begun = pool.drain, []
    monkeypatch.setattr(pool, "drain", begun.append)
    exe.drain()
    gate.open()
    assert next(results) == 0
    wait_until(exe._engine.continuations.is_empty)
    drain(*begun)
    with pytest.raises(DrainedError) as error:
        list(results)
    assert error.value.function == "hold_or_square"
    assert sum(error.value.left.values()) > 1900
