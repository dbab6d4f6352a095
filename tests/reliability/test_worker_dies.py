"""With block allocation: when a worker dies, only the call that it was running fails."""

import ctypes
import importlib
import os
import signal
import sys
import time
from concurrent.futures import BrokenExecutor

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool import block_pool
from support.timing import in_time
from support.waiting import wait_until


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


@pytest.fixture
def make_ending_module(tmp_path, monkeypatch):
    """Import a module that does something where workers import it; return its function f, and a log of what it does."""

    def make(end):
        log = tmp_path / "log"
        name = f"ending_{tmp_path.name}"  # another one in each test
        (tmp_path / f"{name}.py").write_text(
            f"import os, sys\nif os.getpid() != {os.getpid()}:\n    print(0, file=open({str(log)!r}, 'a'))\n    {end}\n"
            "def f(): pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(name).f, log

    return make


def test_function_that_ends_workers_ends_its_calls(make_block_executor, make_ending_module):
    """A function travels with its first call, and before later ones: a worker unpickles it in a call that has begun."""
    function, log = make_ending_module("os._exit(3)")
    exe = make_block_executor(restart_limit=1)
    for count in (2, 4):
        error = exe.submit(function).exception(timeout=60)
        assert isinstance(error, WorkerDied)
        assert error.exit_code == 3
        assert len(log.read_text().split()) == count
    assert exe.submit(pow, 2, 3).result(timeout=60) == 8


def test_function_whose_import_exits_fails_its_calls(make_block_executor, make_ending_module):
    function, _ = make_ending_module("sys.exit('no GPU')")
    exe = make_block_executor()
    worker = exe.submit(pid).result(timeout=60)
    for _ in range(3):
        assert isinstance(exe.submit(function).exception(timeout=60), SystemExit)
    assert exe.submit(pid).result(timeout=60) == worker


def test_import_that_hangs_counts_as_running(make_block_executor, make_ending_module):
    function, _ = make_ending_module("import time; time.sleep(60)")
    exe = make_block_executor(run_time_max=0.3)
    for _ in range(2):
        assert isinstance(exe.submit(function).exception(timeout=60), TimeoutError)


def die_before_calls(path):
    """Have this process end as soon as it is ready."""
    from pympipool.worker import serial

    note(path, 0)
    serial.serve = lambda *_: os._exit(5)


def test_workers_that_die_at_once_end_a_call(tmp_path, monkeypatch):
    """The call never begins, so nothing tells that it is to blame."""
    monkeypatch.setattr(block_pool, "RESTART_DELAY_S", 0.01)
    log = tmp_path / "log"
    with Executor(max_workers=1, block_allocation=True, initializer=die_before_calls, initargs=(log,)) as exe:
        call = exe.submit(pid)
        error = call.exception(timeout=60)
        assert isinstance(error, WorkerDied)
        assert "before it began pid()" in str(error)
        assert len(log.read_text().split()) >= 4


def test_workers_that_die_at_once_come_slowly(tmp_path, monkeypatch):
    monkeypatch.setattr(block_pool, "RESTART_DELAY_S", 1000.0)
    monkeypatch.setattr(block_pool, "RESTART_DELAY_MAX_S", 1000.0)
    log = tmp_path / "log"
    with Executor(max_workers=1, block_allocation=True, initializer=die_before_calls, initargs=(log,)) as exe:
        pool = exe._engine.pool
        wait_until(lambda: pool._restart is not None)
        assert len(log.read_text().split()) == 2  # the first one was replaced at once
        assert not pool.supervisor.workers


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
