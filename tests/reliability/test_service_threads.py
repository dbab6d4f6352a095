"""Threads of an executor go on and its calls end, whatever code of users raises there and whatever is short."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

import pytest

import pympipool
from pympipool import Executor
from pympipool._util import service_threads
from pympipool.errors import WorkerDied
from support.nasty_exceptions import Frozen, Refuses
from support.timing import in_time
from support.waiting import wait_until

LIMIT_S = 60


class EndsOnArrival:
    """Its pickle raises in the process that has made the executor."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return arrive, (self.kind, os.getpid())


def arrive(kind, sender):
    if os.getpid() != sender:
        raise kind


class EndsOnArrivalError(Exception):
    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind

    def __reduce__(self):
        return arrive, (self.kind, os.getpid())


def make(kind):
    return EndsOnArrival(kind)


def fail(error):
    raise error


def fail_on_arrival(kind):
    raise EndsOnArrivalError(kind)


def use(value):
    return 1


@pytest.mark.parametrize("function", [make, fail_on_arrival])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_dependent_call_survives_inputs_that_end_programs(executor, function, kind):
    dependent = executor.submit(use, executor.submit(function, kind))
    futures.wait([dependent], LIMIT_S)
    assert dependent.done()
    seen = threading.Event()
    executor.submit(abs, -1).add_done_callback(lambda _: seen.set())
    assert seen.wait(LIMIT_S)


@pytest.mark.parametrize("error", [Frozen(7), Refuses("y")], ids=["frozen", "refuses"])
def test_exceptions_that_refuse_attributes_reach_dependent_calls(executor, error):
    first = executor.submit(fail, error)
    assert type(executor.submit(use, first).exception(LIMIT_S)) is type(error)
    assert type(first.exception(LIMIT_S)) is type(error)


def test_callback_that_exits_leaves_others_running(executor):
    seen = []
    future = executor.submit(abs, -1)
    future.add_done_callback(lambda _: sys.exit())
    future.add_done_callback(seen.append)
    later = threading.Event()
    executor.submit(abs, -2).add_done_callback(lambda _: later.set())
    assert later.wait(LIMIT_S)
    assert future.result(LIMIT_S) == 1
    assert seen == [future]


def test_logging_handler_that_exits_harms_no_call(make_executor):
    class Exits(logging.Handler):
        def emit(self, record):
            sys.exit()

    handler, logger = Exits(), logging.getLogger("pympipool")
    logger.addHandler(handler)
    try:
        exe = make_executor()
        assert isinstance(exe.submit(os._exit, 3).exception(LIMIT_S), WorkerDied)
        assert exe.submit(abs, -1).result(LIMIT_S) == 1
        exe.shutdown()
    finally:
        logger.removeHandler(handler)


class Blocks(logging.Handler):
    """A handler whose stream takes nothing until the test allows it."""

    def __init__(self):
        super().__init__()
        self.may_go_on = threading.Event()
        self.records = []

    def emit(self, record):
        self.may_go_on.wait(LIMIT_S)
        self.records.append(record)


@pytest.fixture
def blocked():
    handler, logger = Blocks(), logging.getLogger("pympipool")
    logger.addHandler(handler)
    yield handler
    handler.may_go_on.set()
    logger.removeHandler(handler)
    service_threads.flush_records()


def test_logging_handler_that_blocks_delays_no_call(blocked, make_executor):
    exe = make_executor(run_time_max=0.5)
    in_time(lambda: died(exe))
    assert isinstance(exe.submit(time.sleep, 100).exception(LIMIT_S), TimeoutError)
    assert in_time(lambda: exe.submit(abs, -1).result(LIMIT_S)) == 1
    exe.shutdown()
    assert not exe._engine.pool.loop.thread.is_alive()
    blocked.may_go_on.set()
    service_threads.flush_records()
    record = next(one for one in blocked.records if "ended with exit code 3" in one.getMessage())
    assert record.levelno == logging.WARNING
    assert record.threadName == "pympipool_supervisor"
    assert record.filename == "failures.py"
    assert "pympipool_log" not in [thread.name for thread in threading.enumerate()]


def died(exe):
    with pytest.raises(WorkerDied):
        exe.submit(os._exit, 3).result(LIMIT_S)


def test_dropped_log_records_are_counted(blocked, monkeypatch):
    monkeypatch.setattr(service_threads, "RECORDS_MAX", 2)

    def log():
        for number in range(10):
            service_threads.LOGGER.warning("record %d", number)

    thread = service_threads.ServiceThread("pympipool_tested", log)
    thread.start()
    thread.join(LIMIT_S)
    blocked.may_go_on.set()
    service_threads.flush_records()
    messages = [record.getMessage() for record in blocked.records]
    assert messages[0] == "record 0"
    assert any("log records were dropped" in message for message in messages)


UNREAD_STDERR = """
import logging, os, sys, time
logging.basicConfig(level=logging.DEBUG)
from pympipool import Executor
with Executor(max_workers=1, block_allocation=True, run_time_max=1) as exe:
    sys.__stderr__.flush()
    os.set_blocking(2, True)
    free = os.dup(2)
    os.set_blocking(free, False)
    try:
        while True:
            os.write(free, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(2, True)
    assert isinstance(exe.submit(time.sleep, 100).exception(30), TimeoutError)
    assert exe.submit(abs, -1).result(30) == 1
print("good", flush=True)
os._exit(0)  # the interpreter's end waits for stderr
"""


def test_unread_stderr_of_log_stops_nothing():
    with subprocess.Popen(
        [sys.executable, "-c", UNREAD_STDERR], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        try:
            assert script.stdout.readline() == "good\n"
        finally:
            script.kill()


COLLECTED = """
import gc, sys, threading, time
from pympipool import Executor
ended = threading.Event()
class Model:
    def __init__(self):
        self.exe = Executor(backend="mpi", max_workers=1, block_allocation=True)
        self.me = self
    def __del__(self):
        print(threading.current_thread().name)
        self.exe.shutdown(wait=True)
        ended.set()
gc.disable()
model = Model()
model.exe.submit(abs, -1).result()
loop = model.exe._engine.pool.loop
completion = model.exe._engine.dispatcher.call_soon
del model
loop.call(gc.collect) if sys.argv[1] == "supervisor" else completion(gc.collect)
sys.exit(not ended.wait(30))
"""


@pytest.mark.parametrize("thread", ["supervisor", "completion"])
def test_garbage_collector_closes_executor_in_its_thread(thread):
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED, thread], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"pympipool_{thread}"


class Data:
    """Something to watch."""


def raise_import_error():
    raise ImportError("no module named simulation")


def test_broken_executor_keeps_no_frames_of_callers():
    def call(exe):
        data = Data()
        with pytest.raises(BrokenProcessPool, match="init_function failed") as error:
            exe.submit(abs, 1).result(LIMIT_S)
        assert isinstance(error.value.__cause__, ImportError)
        return weakref.ref(data), id(error.value)

    with Executor(max_workers=1, block_allocation=True, init_function=raise_import_error) as exe:
        kept = [call(exe)[0] for _ in range(10)]
        wait_until(lambda: gc.collect() is not None and [one() for one in kept] == [None] * 10)
        errors = [exe.submit(abs, 1).exception(LIMIT_S) for _ in range(2)]
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is not errors[1].__cause__
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize("room", range(5))
def test_executor_without_threads_leaves_nothing(monkeypatch, room):
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    start, left = getattr(threading, name), [room]

    def limited(*args, **kwargs):
        if left[0] <= 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return start(*args, **kwargs)

    Executor(max_workers=1, block_allocation=True).shutdown()  # what is opened once and kept
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(threading, name, limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Executor(max_workers=1, block_allocation=True)
    monkeypatch.undo()
    wait_until(lambda: {one for one in threading.enumerate() if one.is_alive()} <= threads)
    wait_until(lambda: gc.collect() is not None and len(os.listdir("/proc/self/fd")) <= descriptors)


def test_interrupted_start_runs_thread_or_revokes_it(monkeypatch):
    runs = []
    thread = service_threads.ServiceThread("pympipool_tested", lambda: runs.append(1))

    def interrupt(timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._started, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
    wait_until(lambda: thread not in threading.enumerate())
    assert thread.revoke() == (not runs)


def test_thread_whose_start_is_interrupted_is_forgotten(monkeypatch):
    thread = service_threads.ServiceThread("pympipool_tested", list)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for name in ("_start_new_thread", "_start_joinable_thread"):
        monkeypatch.setattr(service_threads.threading, name, interrupt, raising=False)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
    assert thread not in threading.enumerate()


def test_thread_that_has_not_begun_is_alive(monkeypatch):
    may_begin = threading.Event()
    thread = service_threads.ServiceThread("pympipool_tested", may_begin.wait)
    begin = thread._bootstrap
    monkeypatch.setattr(thread, "_bootstrap", lambda: (may_begin.wait(), begin()))
    thread.start()
    thread.join(0.001)
    assert thread.is_alive()
    assert not thread.wait_begun(0.001)
    may_begin.set()
    thread.join()
    assert not thread.is_alive()


def test_worker_died_is_a_broken_process_pool():
    assert issubclass(pympipool.errors.WorkerDied, BrokenProcessPool)
    error = pickle.loads(pickle.dumps(WorkerDied(worker=3, exit_code=-9)))
    assert type(error) is WorkerDied
    assert error.signal == "SIGKILL"


def test_importing_executor_imports_no_process_pool():
    code = "import sys, pympipool.executor; sys.exit('concurrent.futures.process' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=LIMIT_S).returncode == 0
