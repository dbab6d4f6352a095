"""A process that a call has forked ends when it comes back from the call: the worker alone answers."""

from __future__ import annotations

import functools
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from pympipool import Executor
from pympipool._core.copies import WatchedRows
from pympipool._core.records import RowIterator
from pympipool._core.ring import CALL, END, RESULT
from pympipool.serialization.column_forms import taking
from pympipool.worker.call_forks import CallForks
from pympipool.worker.rank_comm import Message
from pympipool.worker.shared_calls import serve_other
from support.waiting import wait_until

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork: run it on Linux or macOS", allow_module_level=True)

WAYS = {
    "returns": lambda: "of the child",
    "raises": lambda: 1 / 0,
    "exits": sys.exit,
    "exits with a large code": lambda: sys.exit(0xFFFFFFFF),
    "exits without stdout": lambda: (sys.stdout.close(), sys.exit()),
    "ends": lambda: os._exit(0),
}
EXIT_CODES = {**dict.fromkeys(WAYS, 0), "returns": 1, "raises": 1, "exits with a large code": 255}


def come_back(way, path):
    """Fork; the child comes back in this way, and the worker returns its exit code."""
    with open(path, "a") as file:
        file.write("called\n")
    child = os.fork()
    if child == 0:
        return way()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def come_back_from_start(way, name):
    """Fork; the child comes back in this way, and the worker keeps its exit code in a variable."""
    child = os.fork()
    if child == 0:
        return WAYS[way]()
    os.environ[name] = str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {}


def fork_while_waiting(path):
    """Have a signal handler fork when this worker waits for the next call. The exit code of the child goes to a file."""

    def fork(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        child = os.fork()
        if child != 0:
            path.write_text(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}.")

    signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again if the worker was about to wait
    return os.getpid()


def note(path, _argument):
    with open(path, "a") as file:
        file.write("called\n")
    return os.getpid()


def fork_and_end(_argument):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return os.getpid()


class ForksAtItsEnd:
    """Arrives as 5. Its finalizer forks, and waits for the child, which comes back."""

    def __reduce__(self):
        return int, ("5",)

    def __del__(self):
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)


class ForksOnArrival:
    """Forks when it is unpickled, and waits for the child, which comes back."""

    def __setstate__(self, _):
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)

    def __reduce__(self):
        return ForksOnArrival, (), True


class Noted:
    """Notes the processes in which it is unpickled or dropped."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.__del__()

    def __del__(self):
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.fixture(scope="module")
def exe():
    with Executor(max_workers=1, block_allocation=True) as exe:
        yield exe


@pytest.mark.parametrize("way", WAYS)
def test_worker_alone_answers_and_goes_on(exe, way, tmp_path):
    calls = []
    for number in range(3):
        calls.append(exe.submit(come_back, WAYS[way], tmp_path / "calls"))
        calls.append(exe.submit(abs, -number))
    assert [call.result(timeout=60) for call in calls] == [EXIT_CODES[way], 0, EXIT_CODES[way], 1, EXIT_CODES[way], 2]


@pytest.mark.parametrize("way", WAYS)
def test_fork_runs_no_further_call_of_its_batch(exe, way, tmp_path):
    codes = exe.map(come_back, [WAYS[way]] * 4, [tmp_path / "calls"] * 4, chunksize=4)
    assert list(codes) == [EXIT_CODES[way]] * 4
    assert (tmp_path / "calls").read_text() == "called\n" * 4


def test_forks_of_a_batch_unpickle_no_arguments(exe, tmp_path):
    path = str(tmp_path / "noted")
    worker = set(exe.map(fork_and_end, [Noted(path) for _ in range(4)], chunksize=4))
    assert {*map(int, (tmp_path / "noted").read_text().split())} - {os.getpid()} == worker


@pytest.mark.parametrize("watch", [iter, lambda rows: WatchedRows(rows, [None], None)])
def test_fork_takes_no_row_and_drops_none(watch):
    class Thing:
        def __del__(self):
            dropped.append(True)

    dropped, column, forks = [], [Thing() for _ in range(3)], CallForks()
    forks.rows = watch(taking(column))
    forks._note()
    assert (list(forks.rows), dropped) == ([], [])
    del column


def test_fork_builds_no_value():
    forks = CallForks()
    forks.rows = RowIterator([1, 2], 2)
    next(forks.rows)
    forks._note()
    assert list(forks.rows) == []


def test_fork_of_a_finalizer_answers_nothing(exe):
    calls = []
    for number in range(4):
        calls.append(exe.submit(ForksAtItsEnd))
        calls.append(exe.submit(abs, -number))
    assert [call.result(timeout=60) for call in calls] == [5, 0, 5, 1, 5, 2, 5, 3]


def test_fork_made_while_unpickling_runs_no_call(exe, tmp_path):
    path = tmp_path / "calls"
    calls = [exe.submit(note, path, ForksOnArrival()) for _ in range(2)]
    workers = {call.result(timeout=60) for call in calls}
    assert path.read_text() == "called\n" * 2
    workers |= {*exe.map(note, [path] * 4, [ForksOnArrival(), {1}, ForksOnArrival(), {2}], chunksize=4)}
    assert workers == {exe.submit(os.getpid).result(timeout=60)}
    assert path.read_text() == "called\n" * 6


def test_rank_looks_for_forks_before_it_answers():
    events = []
    forks = SimpleNamespace(end_fork=lambda: events.append("look"))
    runner = SimpleNamespace(
        calls=SimpleNamespace(forks=forks),
        run=lambda *_: events.append("run") or (RESULT, [b""]),
        drop_released=lambda: None,
    )
    messages = iter([Message(CALL, 1, 0, [b""]), Message(END, 0, 0, [])])
    ranks = SimpleNamespace(receive=messages.__next__, answer=lambda _: events.append("answer"))
    serve_other(ranks, runner, calls_left=0)
    assert events == ["run", "look", "answer", "look"]


@pytest.mark.parametrize("options", [{}, {"max_tasks_per_child": 9}], ids=["small calls", "limited"])
def test_fork_of_a_handler_takes_no_call(options, tmp_path):
    with Executor(max_workers=1, block_allocation=True, **options) as exe:
        worker = exe.submit(fork_while_waiting, tmp_path / "code").result(timeout=60)
        wait_until(lambda: (tmp_path / "code").exists() and (tmp_path / "code").read_text())
        calls = [exe.submit(os.getpid) for _ in range(3)]
        assert [call.result(timeout=60) for call in calls] == [worker] * 3
    assert (tmp_path / "code").read_text() == "1."


@pytest.mark.parametrize("way", ["returns", "raises", "exits"])
def test_forks_made_at_the_start_end(way):
    start = functools.partial(come_back_from_start, way, "OF_INIT_FUNCTION")
    options = {"initializer": come_back_from_start, "initargs": (way, "OF_INITIALIZER"), "init_function": start}
    with Executor(max_workers=1, block_allocation=True, **options) as exe:
        codes = [exe.submit(os.getenv, name) for name in ("OF_INITIALIZER", "OF_INIT_FUNCTION")]
        assert [code.result(timeout=60) for code in codes] == [str(EXIT_CODES[way])] * 2


def test_fork_that_comes_back_says_so(tmp_path, capfd):
    with Executor(max_workers=1) as exe:
        assert exe.submit(come_back, WAYS["raises"], tmp_path / "calls").result(timeout=60) == 1
        assert exe.submit(come_back, WAYS["returns"], tmp_path / "calls").result(timeout=60) == 1
    output = capfd.readouterr().err
    assert "ZeroDivisionError" in output
    assert "End a fork with os._exit()" in output
