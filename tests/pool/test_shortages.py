"""A shortage of the system delays calls, and fails them with its name when it lasts. It never breaks an executor."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pympipool import Executor
from pympipool.errors import WorkerStartError
from pympipool.pool import block_pool, queued_call, shortages
from pympipool.pool.reported_error import ReportedError
from pympipool.pool.shortages import Shortage, shortage_error, shortage_of
from pympipool.pool.start_functions import pickled_init_function
from pympipool.serialization.exceptions import dump_exception
from support.scripts import script_environment

DESCRIPTORS = """
import os, resource, sys, time
from pympipool import Executor
from pympipool.errors import WorkerStartError
from pympipool.pool import shortages
if __name__ == "__main__":
    place, free = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with Executor(backend="mpi", max_workers=1, block_allocation=place == "block") as executor:
        executor.submit(abs, -1).result()
        held = []
        try:
            while True: held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError: pass
        for _ in range(free): os.close(held.pop())
        if place == "block":
            executor.submit(os._exit, 1).exception()
        call = executor.submit(pow, 2, 3)
        try:
            assert call.result(timeout=2) and free
        except TimeoutError: pass
        shortages.SHORTAGE_TIMEOUT_S = 1
        error = call.exception()
        assert free or (isinstance(error, WorkerStartError) and "file descriptors" in str(error)), repr(error)
        begin = time.process_time()
        time.sleep(1)
        assert time.process_time() - begin < 0.5  # nothing spins
        for descriptor in held: os.close(descriptor)
        shortages.SHORTAGE_TIMEOUT_S = 60
        try:
            result = executor.submit(pow, 2, 4).result()
        except WorkerStartError:  # by an attempt that had begun in the shortage
            result = executor.submit(pow, 2, 4).result()
        assert result == 16
"""


@pytest.mark.parametrize("place", ["block", "call"])
@pytest.mark.parametrize("free", [0, 7, 9], ids=["no-segment", "no-process", "no-connection"])
def test_executor_serves_again_after_descriptor_shortage(tmp_path, mark, place, free):
    """The number of free descriptors decides which step of a start fails. With some of them the first call may succeed."""
    path = tmp_path / "script.py"
    path.write_text(DESCRIPTORS)
    command = [sys.executable, str(path), place, str(free)]
    subprocess.run(command, env=script_environment(mark), check=True, timeout=150)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(errno.EMFILE, "no pipe"), "file descriptors"),
        (OSError(errno.ENOSPC, "no shared memory of 5 bytes"), "shared memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (MemoryError(), "memory"),
        (
            WorkerStartError("it ended", last_stderr=["cannot fork a worker: [Errno 11] " + os.strerror(11)]),
            "processes",
        ),
        (OSError(errno.ENOENT, "no program"), None),
        (WorkerStartError("it ended", exit_code=1), None),
        (ValueError("too large"), None),
    ],
)
def test_shortage_is_recognized(error, name):
    found = shortage_of(error)
    assert found is None if name is None else name in found
    try:
        raise WorkerStartError("cannot start a worker") from error
    except WorkerStartError as caused:
        assert shortage_of(caused) == found
    if name is not None:
        assert name in str(shortage_error(found, error))


@pytest.mark.parametrize(
    ("function", "path", "name"),
    [("initializer", "/scratch/x", None), ("initializer", "/dev/shm/x", "shared memory"), ("", "x", "shared memory")],
)
def test_full_disk_of_an_initializer_is_no_shortage(function, path, name):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    found = shortage_of(ReportedError(dump_exception(error, "a worker"), function))
    assert found is None if name is None else name in found


def test_circle_of_causes_ends():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert shortage_of(first) is None


def test_pauses_grow_while_a_shortage_lasts(monkeypatch):
    shortage = Shortage()
    pauses = [shortage.attempt_failed(others_run=False) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == shortages.PAUSE_MAX_S
    assert not shortage.lasts_too_long
    monkeypatch.setattr(shortages, "SHORTAGE_TIMEOUT_S", -1)
    assert shortage.lasts_too_long
    shortage.passed()
    assert not shortage.lasts_too_long
    assert shortage.attempt_failed(others_run=False) == pauses[0]


def raise_three_times(path, error):
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, b"x")
    if os.fstat(descriptor).st_size <= 3:
        raise error
    return {}


@pytest.mark.parametrize(
    ("block", "error"),
    [(True, OSError(errno.EMFILE, os.strerror(errno.EMFILE))), (False, RuntimeError("can't start new thread"))],
    ids=["block", "call"],
)
def test_shortage_that_a_worker_reports_is_waited_out(tmp_path, monkeypatch, block, error):
    for pool in (block_pool, queued_call):
        monkeypatch.setattr(pool, "START_ATTEMPTS", 2)

    def init_function():
        return raise_three_times(str(tmp_path / "starts"), error)

    options = {"init_function": init_function} if block else {}
    with Executor(backend="mpi", max_workers=1, block_allocation=block, **options) as executor:
        if not block:  # nothing else fails in such a worker as easily
            executor._engine.pool.supervisor.settings["init_function"] = pickled_init_function(init_function, True)
        assert executor.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("block", [True, False], ids=["block", "call"])
def test_shortage_that_a_worker_reports_is_the_cause(monkeypatch, block):
    monkeypatch.setattr(shortages, "SHORTAGE_TIMEOUT_S", 0.5)

    def init_function():
        raise MemoryError("no room for the model")

    options = {"init_function": init_function} if block else {}
    with Executor(backend="mpi", max_workers=1, block_allocation=block, **options) as executor:
        if not block:
            executor._engine.pool.supervisor.settings["init_function"] = pickled_init_function(init_function, True)
        error = executor.submit(pow, 2, 3).exception()
    assert isinstance(error, WorkerStartError)
    assert "too little memory: MemoryError: no room for the model" in str(error)
    assert isinstance(error.__cause__, MemoryError)


def end_eight_times(path):
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, b"x")
    if os.fstat(descriptor).st_size <= 8:
        os._exit(1)


def test_workers_of_one_round_fail_once(tmp_path, monkeypatch):
    monkeypatch.setattr(block_pool, "START_ATTEMPTS", 3)
    path = str(tmp_path / "starts")
    with Executor(
        backend="mpi", max_workers=8, block_allocation=True, init_function=lambda: end_eight_times(path) or {}
    ) as executor:
        assert executor.submit(pow, 2, 3).result() == 8
