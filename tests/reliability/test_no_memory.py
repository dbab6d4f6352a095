"""Where there is no memory for a message, only its call fails. Workers, other calls and the end of the script are unharmed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.scripts import script_environment

# Scripts import concurrent.futures.process first: executors do so soon after their start, and in a shortage modules of the
# standard library that it imports print what they could not load.

MASTER = """
import concurrent.futures.process, resource, sys
from pympipool import Executor
def make(size): return bytes(size)
def mapped():
    with open("/proc/self/statm") as file: return int(file.read().split()[0]) * resource.getpagesize()
if __name__ == "__main__":
    place, size, count, extra = sys.argv[1], *map(int, sys.argv[2:])
    with Executor(backend="mpi", max_workers=2, block_allocation=place == "block") as executor:
        executor.submit(pow, 2, 3).result()
        resource.setrlimit(resource.RLIMIT_AS, (mapped() + extra, resource.RLIM_INFINITY))
        calls = [executor.submit(make, size) for _ in range(count)]
        kept, received, missing, other = [], 0, 0, None
        while calls:
            call = calls.pop(0)
            try:
                kept.append(call.result())
                received += 1
            except MemoryError as error:
                missing += str(size)[:-3] in str(error)  # the message names about this size
                del kept[:4]  # else there is no room for the memory of a new worker, which is waited for
            except BaseException as error: other = error
        counts = received + missing, missing > 0
        del kept, call
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert other is None, repr(other)
        assert counts == (count, True), counts
        assert len(executor.submit(make, size).result()) == size
"""

AT_THE_END = """
import concurrent.futures.process, resource, sys
from pympipool import Executor
def make(size): return bytes(size)
if __name__ == "__main__":
    executor = Executor(backend="mpi", max_workers=2, block_allocation=True)
    executor.submit(pow, 2, 3).result()
    with open("/proc/self/statm") as file: mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (100 << 20), resource.RLIM_INFINITY))
    calls = [executor.submit(make, 1 << 20) for _ in range(400)]
    kept = [call for call in calls if call.exception() is None]
    assert 0 < len(kept) < 400
"""

WORKER = """
import os, resource
from pympipool import Executor
def limit(extra):
    with open("/proc/self/statm") as file: mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + extra, resource.RLIM_INFINITY))
    return os.getpid()
if __name__ == "__main__":
    with Executor(backend="mpi", max_workers=1, block_allocation=True) as executor:
        pid = executor.submit(limit, 30 << 20).result()
        for argument in (bytes(100 << 20), [bytes(1 << 16)] * 2 + [bytes(50 << 20)]):
            error = executor.submit(len, argument).exception()
            assert isinstance(error, MemoryError) and "bytes" in str(error), repr(error)
        error = executor.submit(bytes, 100 << 20).exception()
        assert isinstance(error, MemoryError), error
        assert executor.submit(os.getpid).result() == pid
"""

THREAD = """
import itertools, resource, threading, time
from pympipool._util.service_threads import ServiceThread
def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
def set_limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
def start_in_a_shortage(extra):
    # True: there was memory for a thread, but for none of its frames
    has_run = threading.Lock()
    has_run.acquire()
    thread = ServiceThread("late", has_run.release)
    set_limit(mapped() + extra)
    try:
        thread.start()
        was_short = not has_run.acquire(timeout=0.2)
    except RuntimeError:
        return False  # there was none for the thread either
    finally:
        set_limit(resource.RLIM_INFINITY)
    assert not was_short or has_run.acquire(timeout=30), "the thread has not run"
    thread.join(30)
    assert thread not in threading.enumerate()
    return was_short
start_in_a_shortage(64 << 20)  # its stack is kept for the next threads
deadline = time.monotonic() + 60
sizes = itertools.cycle(range(0, 64 << 10, 4 << 10))
while not start_in_a_shortage(next(sizes)):
    assert time.monotonic() < deadline, "no thread was without memory"
"""


def run(path, source, mark, *arguments):
    path.write_text(source)
    command = [sys.executable, str(path), *map(str, arguments)]
    environment = script_environment(mark)
    ended = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stderr == ""


@pytest.mark.parametrize("place", ["block", "call"])
@pytest.mark.parametrize(("size", "count", "extra"), [(1_000_000, 80, 40 << 20), (100_000_000, 2, 90 << 20)])
def test_result_without_memory_fails_its_call(tmp_path, mark, place, size, count, extra):
    run(tmp_path / "script.py", MASTER, mark, place, size, count, extra)


def test_small_results_may_exhaust_memory(tmp_path, mark):
    run(tmp_path / "script.py", MASTER, mark, "block", 60_000, 2000, 50 << 20)


def test_script_without_memory_ends(tmp_path, mark):
    run(tmp_path / "script.py", AT_THE_END, mark)


def test_arguments_without_memory_fail_their_call(tmp_path, mark):
    run(tmp_path / "script.py", WORKER, mark)


def test_thread_begins_once_there_is_memory(tmp_path, mark):
    run(tmp_path / "script.py", THREAD, mark)
