"""Leftovers of calls in their worker: threads, exit functions and processes that do not end by themselves."""

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path

import psutil
import pytest

from pympipool import Executor
from pympipool.pool import block_pool, per_call_pool, supervisor
from pympipool.pool.event_loop import EventLoop
from pympipool.pool.output import Output, OutputWriter

LIMIT_S = 60

RANKS = [1, pytest.param(2, marks=pytest.mark.mpi)]


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    for module in (block_pool, supervisor, per_call_pool):
        monkeypatch.setattr(module, "WORKER_EXIT_GRACE_S", 0.2)


def never():
    threading.Event().wait()


def leave_a_thread():
    threading.Thread(target=never).start()
    return os.getpid()


def leave_an_exit_function():
    atexit.register(never)
    return os.getpid()


def leave_a_thread_and_fail():
    leave_a_thread()
    raise ValueError("the preset cannot be made")


def use_a_pool_of_threads(path):
    """Leave work in a pool of threads, which finishes it when the interpreter exits."""
    pool = futures.ThreadPoolExecutor(1)
    pool.submit(threading.Event().wait, 0.2)
    pool.submit(Path(path).touch)
    return os.getppid()


def start_a_program():
    """Start a program without output, so that the end of our output does not depend on its end."""
    return subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def closes(exe, *, or_end=()):
    """Return True if shutdown returns. If it does not, kill processes so that the test can end."""
    closing = threading.Thread(target=exe.shutdown)
    closing.start()
    closing.join(LIMIT_S)
    closed = not closing.is_alive()
    for pid in or_end if not closed else ():
        psutil.Process(pid).kill()
    closing.join()
    return closed


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("block_allocation", [False, True])
@pytest.mark.parametrize("leave", [leave_a_thread, leave_an_exit_function])
def test_endless_process_does_not_block_shutdown(ranks, block_allocation, leave):
    exe = Executor(max_cores=ranks, cores_per_worker=ranks, block_allocation=block_allocation)
    pids = exe.submit(leave).result(LIMIT_S)
    assert closes(exe, or_end=[pids] if ranks == 1 else pids)


def test_endless_process_does_not_occupy_cores():
    with Executor(max_cores=1) as exe:
        for _ in range(3):
            exe.submit(leave_an_exit_function)
        assert exe.submit(pow, 2, 3).result(LIMIT_S) == 8


def test_worker_hanging_at_start_is_killed():
    exe = Executor(max_workers=1, block_allocation=True, init_function=leave_a_thread_and_fail)
    before = psutil.Process().children()
    call = exe.submit(pow, 2, 3)
    done, _ = futures.wait([call], LIMIT_S)
    for process in before if not done else ():
        process.kill()
    assert isinstance(call.exception().__cause__, ValueError)
    assert done
    exe.shutdown()


def test_fork_waits_for_its_working_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(per_call_pool, "WORKER_EXIT_GRACE_S", LIMIT_S)
    with Executor(max_cores=1) as exe:
        assert exe.submit(use_a_pool_of_threads, tmp_path / "done").result(LIMIT_S) != os.getpid()
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("block_allocation", [False, True])
def test_programs_started_by_calls_end_with_worker(ranks, block_allocation):
    with Executor(max_cores=ranks, cores_per_worker=ranks, block_allocation=block_allocation) as exe:
        pids = exe.submit(start_a_program).result(LIMIT_S)
    programs = []
    for pid in [pids] if ranks == 1 else pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            programs.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(programs, LIMIT_S)
    for program in alive:
        program.kill()
    assert alive == []


class Gone:
    """A stand-in for the output stream of a window that was closed."""

    def write(self, _text):
        raise RuntimeError("the window is gone")

    def flush(self):
        pass


def test_unwritable_output_loses_only_the_output(monkeypatch):
    """The rest of the output is read when the worker has ended, before its call ends."""
    reader, writer = os.pipe()
    os.write(writer, b"last words")
    os.close(writer)
    loop = EventLoop("unused", at_exit=lambda: None)
    stdout = OutputWriter("stdout", loop)
    output = Output(open(reader, "rb", buffering=0), stdout, None, loop)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Gone())
        output.drain()
        stdout.close()
    loop.close()
    assert output.pipe is None


def close_stdout_and_fail_on_one_rank():
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        sys.stdout.close()
        raise ValueError("the preset cannot be made")
    return {}


@pytest.mark.mpi
def test_failed_rank_with_closed_output_ends(monkeypatch):
    monkeypatch.setattr(supervisor, "WORKER_EXIT_GRACE_S", 1000)
    with Executor(
        max_cores=2, cores_per_worker=2, block_allocation=True, init_function=close_stdout_and_fail_on_one_rank
    ) as exe:
        call = exe.submit(pow, 2, 3)
        done, _ = futures.wait([call], LIMIT_S)
        for process in psutil.Process().children(recursive=True) if not done else ():
            process.kill()
        assert done
        assert isinstance(call.exception().__cause__, ValueError)
