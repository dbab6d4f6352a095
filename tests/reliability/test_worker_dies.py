"""With block allocation: when a worker dies, only the call that it was running fails."""

import ctypes
import os
import signal
import sys
import time
from concurrent.futures import BrokenExecutor

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError
from support.timing import in_time


def pid():
    return os.getpid()


def crash():
    ctypes.string_at(0)


def leave(code):
    os._exit(code)


def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(30)


def complain_and_die(text):
    print(text, file=sys.stderr, flush=True)
    os._exit(7)


def note(path, number):
    """Record that the call has run."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def die_the_first_time(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3)
    return "second time"


def fill_memory():
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return b"x" * (1 << 40)


@pytest.mark.parametrize(
    ("function", "arguments", "exit_code", "name"),
    [
        (crash, (), -signal.SIGSEGV, "SIGSEGV"),
        (leave, (3,), 3, None),
        (leave, (0,), 0, None),
        (kill_self, (signal.SIGKILL,), -signal.SIGKILL, "SIGKILL"),
        (kill_self, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM"),
    ],
)
def test_error_names_worker_and_cause_of_death(make_block_executor, function, arguments, exit_code, name):
    exe = make_block_executor()
    victim = exe.submit(pid).result()
    with pytest.raises(WorkerDied) as raised:
        exe.submit(function, *arguments).result()
    error = raised.value
    assert (error.exit_code, error.signal, error.pid) == (exit_code, name, victim)
    assert error.function == function.__name__
    assert error.host
    assert function.__name__ in str(error)
    assert exe.submit(pid).result() != victim


def test_error_quotes_the_last_stderr_lines(make_block_executor):
    with pytest.raises(WorkerDied, match="the disk is on fire") as raised:
        make_block_executor().submit(complain_and_die, "the disk is on fire").result()
    assert raised.value.last_stderr[-1] == "the disk is on fire"


def test_out_of_memory_fails_only_its_call(make_block_executor):
    exe = make_block_executor()
    assert isinstance(exe.submit(fill_memory).exception(), MemoryError)
    assert exe.submit(pow, 2, 3).result() == 8


def test_calls_queued_behind_a_fatal_one_run_once(make_block_executor, tmp_path):
    exe = make_block_executor()
    exe.submit(note, tmp_path / "warm", 0).result()
    log, gate = tmp_path / "log", tmp_path / "gate"
    blocker = exe.submit(wait_for, gate)
    killer = exe.submit(leave, 1)
    others = [exe.submit(note, log, i) for i in range(200)]
    gate.touch()
    assert blocker.result() is None
    assert isinstance(killer.exception(), WorkerDied)
    assert [call.result() for call in others] == list(range(200))
    assert sorted(map(int, log.read_text().split())) == list(range(200))


def test_stopped_idle_worker_delays_no_call(make_block_executor):
    exe = make_block_executor(max_workers=2)
    stopped = psutil.Process(exe.submit(pid).result())
    stopped.suspend()
    try:
        calls = [exe.submit(pow, i, 2) for i in range(500)]
        assert [call.result(timeout=60) for call in calls] == [i * i for i in range(500)]
    finally:
        stopped.resume()
    seen = set()
    while stopped.pid not in seen:  # until it has served a call again
        seen.update(call.result(timeout=60) for call in [exe.submit(pid) for _ in range(20)])


def test_killed_idle_worker_is_replaced(make_block_executor):
    exe = make_block_executor()
    for _ in range(3):
        victim = psutil.Process(exe.submit(pid).result())
        victim.kill()
        psutil.wait_procs([victim], timeout=60)
        assert exe.submit(pid).result() != victim.pid


@pytest.mark.slow
def test_executor_survives_many_worker_deaths(make_block_executor):
    exe = make_block_executor(max_workers=2)
    calls = [exe.submit(leave, 1) if i % 2 else exe.submit(pow, i, 2) for i in range(40)]
    for i, call in enumerate(calls):
        if i % 2:
            assert isinstance(call.exception(), WorkerDied)
        else:
            assert call.result() == i * i


def test_call_is_retried_on_request(make_block_executor, tmp_path):
    exe = make_block_executor(restart_limit=1)
    assert exe.submit(die_the_first_time, tmp_path / "mark").result() == "second time"


@pytest.mark.slow
def test_call_is_retried_at_most_restart_limit_times(make_block_executor, tmp_path):
    exe = make_block_executor(restart_limit=2)
    log = tmp_path / "log"
    assert isinstance(exe.submit(note_and_die, log).exception(), WorkerDied)
    assert log.read_text().split() == ["0", "0", "0"]


def note_and_die(path):
    note(path, 0)
    os._exit(1)


def die_in_init():
    os._exit(9)


@pytest.mark.slow
def test_workers_that_never_start_give_a_clear_error():
    with Executor(max_workers=1, block_allocation=True, init_function=die_in_init) as exe:
        with pytest.raises(WorkerStartError, match=r"did not get ready.*exit code 9"):
            exe.submit(pow, 2, 3).result(timeout=60)
        with pytest.raises(WorkerStartError):
            exe.submit(pow, 2, 3).result(timeout=60)


def test_call_beyond_run_time_max_fails_alone(make_block_executor):
    exe = make_block_executor(run_time_max=0.5)
    with pytest.raises(TimeoutError, match=r"run_time_max=0\.5"):
        exe.submit(time.sleep, 50).result(timeout=60)
    assert in_time(lambda: exe.submit(pow, 2, 3).result()) == 8


def test_run_time_max_applies_to_each_call_alone(make_block_executor):
    """The limit applies to each call, not to all of them together."""
    exe = make_block_executor(run_time_max=2.0)
    assert in_time(lambda: [exe.submit(time.sleep, 0.05).result() for _ in range(50)]) == [None] * 50


# ---- workers with state ----


@pytest.mark.parametrize("state", ["none", "init_function", "an earlier call"])
def test_note_tells_that_state_is_lost(state):
    init_function = dict if state == "init_function" else None
    with Executor(max_workers=1, block_allocation=True, init_function=init_function) as exe:
        if state == "an earlier call":
            exe.submit(pid).result(timeout=60)
        error = exe.submit(leave, 3).exception(timeout=60)
        assert isinstance(error, WorkerDied)
        notes = getattr(error, "__notes__", [])
        assert len(notes) == (state != "none")
        assert all("is lost" in note for note in notes)
        assert exe.submit(pid).result(timeout=60)


def test_time_limit_that_loses_state_says_so():
    with Executor(max_workers=1, block_allocation=True, init_function=dict, run_time_max=0.5) as exe:
        error = exe.submit(time.sleep, 60).exception(timeout=60)
        assert isinstance(error, TimeoutError)
        assert "is lost" in error.__notes__[0]


def test_later_calls_fail_if_state_is_not_replaced():
    options = {"block_allocation": True, "on_worker_replaced": "fail"}
    with Executor(max_workers=1, **options) as exe:
        assert isinstance(exe.submit(leave, 3).exception(timeout=60), WorkerDied)  # it had no state yet
        exe.submit(pid).result(timeout=60)
        assert isinstance(exe.submit(leave, 3).exception(timeout=60), WorkerDied)
        for call in [exe.submit(pid) for _ in range(3)]:
            error = call.exception(timeout=60)
            assert isinstance(error, BrokenExecutor)
            assert "on_worker_replaced" in str(error)


def test_wrong_on_worker_replaced_is_refused():
    with pytest.raises(ValueError, match="on_worker_replaced is 'never'"):
        Executor(max_workers=1, block_allocation=True, on_worker_replaced="never")
    with pytest.raises(ValueError, match="only for block_allocation=True"):
        Executor(max_workers=1, on_worker_replaced="fail")
