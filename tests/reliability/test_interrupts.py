"""Ctrl-C, or the exception of any signal handler, at every point of every method: nothing is torn, nothing hangs."""

import contextlib
import gc
import operator
import os
import signal
import sys
import threading
from concurrent import futures
from functools import partial
from pathlib import Path

import pytest

from pympipool import Executor, trace
from pympipool import executor as executor_module
from pympipool.errors import DrainedError
from pympipool.execution import engine
from support import interrupt_rounds
from support.calls import hold, hold_or_square, square
from support.interrupts import Interrupt, interrupted_everywhere
from support.scripts import run_program
from support.waiting import main_thread_is_in, wait_until

LIMIT_S = 60.0


@pytest.fixture(params=[False, True], ids=["per_call", "block_allocation"])
def executor(request):
    exe = Executor(backend="mpi", max_workers=1, block_allocation=request.param)
    yield exe
    end(exe.shutdown)


def end(function, *args):
    """Call a function that ends an executor; fail if it does not return."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "hangs"


def is_idle(exe):
    engine = exe._engine
    return engine.dispatcher.unfinished_count == 0 and engine._pending_count() == 0


def check_everywhere(exe, action, step=1):
    """Interrupt an action at every point; afterwards nothing may count as unfinished for ever."""
    count = 0
    for place in interrupted_everywhere(action, step):
        count += 1
        end_given()
        try:
            wait_until(lambda: is_idle(exe), LIMIT_S)
        except AssertionError:
            pytest.fail(f"an interrupt at {place} leaves something unfinished")
    end_given()
    assert count > 0
    assert exe.submit(square, 3).result(LIMIT_S) == 9


def submit_plain(exe):
    exe.submit(square, 2)


def submit_with_inputs(exe):
    exe.submit(max, [exe.submit(square, 2), exe.submit(square, 3)])


GIVEN = []
"""Futures of the test, which get results after an interrupt."""


def end_given():
    while GIVEN:
        GIVEN.pop().set_result(2)


def submit_with_foreign_input(exe):
    GIVEN.append(futures.Future())
    exe.submit(square, GIVEN[-1])


def cancel(exe):
    call = exe.submit(square, 2)
    call.add_done_callback(str)
    call.cancel()


def cancel_by_force(exe):
    call = exe.submit(square, 2)
    call.cancel(force=True)


def retry(exe):
    call = exe.submit(divmod, 1, 0, resource_dict={"retries": 1})
    call.exception(LIMIT_S)


def ask(exe):
    call = exe.submit(square, 2)
    call.add_done_callback(str)
    call.running(), call.done(), call.cancelled(), repr(call)
    call.exception(LIMIT_S)
    call.result(LIMIT_S)


def wait(exe):
    futures.wait([exe.submit(square, i) for i in range(2)], LIMIT_S)


def as_completed(exe):
    for _ in futures.as_completed([exe.submit(square, i) for i in range(2)], LIMIT_S):
        pass


def resize(exe):
    exe.max_workers = 2
    exe.max_workers = 1


def map_all(exe):
    list(exe.map(square, range(5), timeout=LIMIT_S))


def map_in_chunks(exe):
    list(exe.map(square, range(4), chunksize=2, timeout=LIMIT_S))


def map_unordered(exe):
    list(exe.map(square, range(5), unordered=True, timeout=LIMIT_S))
    list(exe.map(square, range(5), unordered=True, chunksize=2, timeout=LIMIT_S))


def map_buffered(exe):
    list(exe.map(square, range(5), buffersize=2, timeout=LIMIT_S))


def map_and_leave(exe):
    results = exe.map(square, range(20), timeout=LIMIT_S)
    next(results)
    close = getattr(results, "close", None)
    if close is not None:
        close()


@pytest.mark.parametrize(
    "action",
    [
        *(submit_plain, submit_with_inputs, submit_with_foreign_input, cancel, cancel_by_force, retry, ask, wait),
        *(as_completed, resize),
    ],
)
def test_interrupted_method_leaves_nothing_unfinished(executor, action):
    check_everywhere(executor, lambda: action(executor), 1 if executor.info["block_allocation"] else 5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C in the end of a generator
@pytest.mark.parametrize("action", [map_all, map_in_chunks, map_unordered, map_buffered, map_and_leave])
def test_interrupted_map_leaves_nothing_unfinished(action):
    with Executor(backend="mpi", max_workers=1, block_allocation=True) as exe:
        check_everywhere(exe, lambda: action(exe))


def test_interrupted_waits_hold_no_lock(executor):
    calls = [executor.submit(square, i) for i in range(2)]
    futures.wait(calls, LIMIT_S)
    for place in interrupted_everywhere(lambda: futures.wait(calls, LIMIT_S)):
        with futures.ThreadPoolExecutor(1) as threads:
            assert threads.submit(futures.wait, calls, LIMIT_S).result(LIMIT_S).done == set(calls), place


def test_interrupted_trace_ends_and_another_begins(executor):
    records = []

    def record():
        records[:] = [trace()]
        with records[0]:
            executor.submit(square, 2).result(LIMIT_S)

    for place in interrupted_everywhere(record):
        with contextlib.suppress(RuntimeError):  # it had not begun, or had ended
            for begun in records:
                begun.stop()
        with trace() as another:
            executor.submit(square, 3).result(LIMIT_S)
        assert [call.outcome for call in another.timeline.calls] == ["returned"], place


@pytest.mark.parametrize("block_allocation", [True, False])
def test_interrupted_drain_ends_every_call(block_allocation, gate):
    made = []

    def map_longer():
        exe = Executor(backend="mpi", max_workers=1, block_allocation=block_allocation)
        made[:] = exe, exe.map(partial(hold_or_square, gate.path, held=0), range(20), timeout=LIMIT_S)
        gate.wait_until_begun()

    def drain_it():
        made[0].drain()

    ends = set()
    for place in interrupted_everywhere(drain_it, prepare=map_longer):
        exe, results = made
        gate.open()
        try:
            ends.add(len(list(results)))  # it was interrupted before it has begun
        except DrainedError:
            ends.add("drained")
            assert isinstance(exe.submit(square, 1).exception(LIMIT_S), DrainedError), place
        end(exe.shutdown)
    gate.open()  # the last one was not interrupted
    end(made[0].shutdown)
    assert ends == {20, "drained"}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=["shutdown", "kill"])
@pytest.mark.parametrize("block_allocation", [False, True], ids=["per_call", "block_allocation"])
def test_interrupted_end_can_be_repeated(block_allocation, error):
    made = []

    def open_executor():
        made[:] = [Executor(backend="mpi", max_workers=1, block_allocation=block_allocation)]
        made[0].submit(square, 2)

    places = interrupted_everywhere(lambda: made[0].__exit__(error, None, None), 5, open_executor)
    for place in places:
        end(made[0].__exit__, error, None, None)
        assert not made[0]._engine.pool.loop.thread.is_alive(), place
    made[0].shutdown()


def test_random_interrupts_let_executors_end():
    done = run_program([sys.executable, interrupt_rounds.__file__, "30", "1"], timeout_s=200.0)
    assert done.returncode == 0, done.stdout + done.stderr


def test_end_names_workers_that_have_not_ended(monkeypatch, caplog):
    exe = Executor(backend="mpi", max_workers=1, block_allocation=True)
    pid = exe.submit(os.getpid).result(LIMIT_S)
    with monkeypatch.context() as patches:  # as if the kernel did not end them
        patches.setattr(engine, "KILL_LIMIT_S", 0.1)
        patches.setattr(exe._engine.pool, "kill", lambda **_: None)
        end(exe.__exit__, KeyboardInterrupt, None, None)
    assert f"worker 1 (pid {pid}, host" in caplog.text
    assert "has not ended within 0.1 s" in caplog.text
    end(exe.__exit__, KeyboardInterrupt, None, None)
    assert not exe._engine.pool.loop.thread.is_alive()


@pytest.mark.parametrize("step", ["pool.kill", "_cancel_waiting"])
def test_shutdown_finishes_interrupted_kill(executor, gate, monkeypatch, step):
    calls = [executor.submit(hold, gate.path), executor.submit(square, 2), executor.submit(square, futures.Future())]
    gate.wait_until_begun()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    target, _, name = f"_engine.{step}".rpartition(".")
    with monkeypatch.context() as patches:
        patches.setattr(operator.attrgetter(target)(executor), name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            executor.__exit__(KeyboardInterrupt, None, None)
    end(executor.shutdown)
    assert all(call.done() for call in calls)
    assert all(call.cancelled() for call in calls[1:])


@pytest.mark.parametrize("block_allocation", [False, True], ids=["per_call", "block_allocation"])
def test_ctrl_c_in_end_of_block_ends_calls(block_allocation, gate):
    main = threading.main_thread().ident

    def press():
        gate.wait_until_begun()
        wait_until(lambda: main_thread_is_in("shutdown", executor_module.__file__))
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt), Executor(max_workers=1, block_allocation=block_allocation) as exe:
        calls = [exe.submit(hold, gate.path), exe.submit(square, 2)]
    thread.join()
    assert all(call.done() for call in calls)
    assert calls[1].cancelled()
    assert not exe._engine.pool.loop.thread.is_alive()


CONSTRUCTORS = """
import sys, threading, time
from pympipool import Executor, trace
from support.interrupts import Interrupt, interrupted_everywhere
before = threading.active_count()
for block_allocation in (False, True):
    for place in interrupted_everywhere(lambda: Executor(max_workers=1, block_allocation=block_allocation), 5):
        end_s = time.monotonic() + 60
        while threading.active_count() > before:
            if time.monotonic() > end_s:
                sys.exit(f"an interrupt at {place} leaves {threading.enumerate()}")
            time.sleep(0.001)
"""


def test_interrupted_constructor_leaves_no_thread():
    paths = [str(Path(engine.__file__).parents[2]), str(Path(interrupt_rounds.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": ""}
    done = run_program([sys.executable, "-c", CONSTRUCTORS], timeout_s=150.0, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block_allocation", [False, True], ids=["per_call", "block_allocation"])
def test_twice_interrupted_constructor_leaves_no_thread(block_allocation, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with monkeypatch.context() as patches:
        patches.setattr(engine.trace_registry, "register", interrupt)
        patches.setattr(engine.ExitStack, "__exit__", interrupt)  # nothing of what was made is ended there
        try:
            Executor(backend="mpi", max_workers=1, block_allocation=block_allocation)
        except KeyboardInterrupt:
            pass
    wait_until(lambda: set(threading.enumerate()) <= before, LIMIT_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that the collector closes
@pytest.mark.parametrize(("name", "step"), [("pympipool_supervisor", 1), ("pympipool_callbacks", 9)])
def test_interrupted_cleanup_of_constructor_leaves_no_thread(name, step, monkeypatch):
    """Ctrl-C ends the start of a thread before it has begun, and a second one strikes at each point of the clean-up."""
    before = set(threading.enumerate())
    start = threading.Thread.start

    def interrupted_start(thread):
        if thread.name != name:
            return start(thread)
        begin = thread._bootstrap
        thread._bootstrap = lambda: (may_begin.wait(), begin())
        start(thread)
        second.__enter__()
        raise KeyboardInterrupt

    for number in range(0, 1000, step):
        second, may_begin = Interrupt(number), threading.Event()
        with monkeypatch.context() as patches, contextlib.suppress(KeyboardInterrupt):
            patches.setattr(threading.Thread, "start", interrupted_start)
            try:
                Executor(backend="mpi", max_workers=1, block_allocation=True)
            finally:
                second.__exit__()
                may_begin.set()
        if step > 1:
            gc.collect()  # the executor may be in the frames of the interrupts, which refer to each other
        try:
            wait_until(lambda: set(threading.enumerate()) <= before, LIMIT_S)
        except AssertionError:
            pytest.fail(f"an interrupt at {second.place} leaves {threading.enumerate()}")
        if second.place is None:
            break
    assert number > 0
