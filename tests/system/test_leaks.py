"""Many executors leak nothing: no processes, files, descriptors, threads or memory mappings."""

import os
import threading

import psutil
import pytest

from pympipool import Executor
from support.leftover_files import forgotten_files, shared_memory_files, temporary_files
from support.scripts import run_script

OPEN_AND_CLOSE = """
import gc
import sys
import threading
from pathlib import Path

import psutil

from pympipool import Executor


def look():
    gc.collect()
    process = psutil.Process()
    maps = Path("/proc/self/maps").read_text()
    return {
        "processes": len(process.children(recursive=True)),
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
        "segments": maps.count("memfd:") + maps.count("/dev/shm"),
        "objects": sum(str(type(thing).__module__).startswith("pympipool.") for thing in gc.get_objects()),
    }


def open_and_close(number, **parameters):
    with Executor(max_workers=1, block_allocation=True, **parameters) as exe:
        if number % 3 == 0:  # used and closed
            assert exe.submit(pow, 2, number).result() in (2**number, [2**number] * 2)
        elif number % 3 == 1:  # closed while a call waits for its worker
            exe.submit(pow, 2, number)
        # else closed before its worker has started


def run(count, **parameters):
    for number in range(count):
        open_and_close(number, **parameters)
        if number == 2:
            before = look()  # what is imported and made once is there
    return before, look()


if __name__ == "__main__":
    parameters = {"cores_per_worker": 2} if sys.argv[2] == "mpi" else {}
    before, after = run(int(sys.argv[1]), **parameters)
    print("before", before)
    print("after", after)
    assert after == before, (before, after)
"""


@pytest.mark.parametrize(
    ("count", "kind"), [(100, "serial"), pytest.param(8, "mpi", marks=pytest.mark.mpi)], ids=["serial", "mpi"]
)
def test_opened_and_closed_executors_leave_nothing(tmp_path, count, kind):
    memory, files = shared_memory_files(), temporary_files()
    folder = tmp_path / "temporary"
    folder.mkdir()
    run_script(OPEN_AND_CLOSE, tmp_path, command=["script.py", str(count), kind], variables={"TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []
    assert forgotten_files(shared_memory_files, memory) == set()
    assert forgotten_files(temporary_files, files) == set()


KEEP_OPEN = """
from pympipool import Executor
from system_look import look

with Executor(max_workers=2, block_allocation=True) as exe:
    while len(exe.info["workers"]) < 2:
        exe.submit(divmod, 1, 1).result()
    for number in range(200):
        exe.submit(divmod, 1, number % 2).exception()
    before = look(exe)
    for number in range(2000):
        exe.submit(divmod, 1, number % 2).exception()
        exe.submit(len, bytes(500_000)).result()
    after = look(exe)
print(before, after)
assert all(many <= few for many, few in zip(after[0], before[0])), "the master"
assert after[1] == before[1], "the workers"
"""

LOOK = """
import gc, os, threading

def count():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(gc.get_objects()) // 200

def look(exe):
    master = count()[:2]
    return master, sorted({exe.submit(count).result()[:2] for _ in range(10)})
"""


def test_calls_leak_no_descriptors_or_threads(tmp_path):
    (tmp_path / "system_look.py").write_text(LOOK)
    run_script(KEEP_OPEN, tmp_path)


CLOSE_IN_TURN = """
import gc
from pympipool import Executor
import psutil

executors = [Executor(max_workers=1, block_allocation=True) for _ in range(8)]
assert [exe.submit(pow, 2, i).result() for i, exe in enumerate(executors)] == [2**i for i in range(8)]
for exe in executors[::2]:
    exe.shutdown()
assert [exe.submit(pow, 3, i).result() for i, exe in enumerate(executors[1::2])] == [3**i for i in range(4)]
for exe in executors:
    exe.shutdown()
assert psutil.Process().children(recursive=True) == []
"""


def test_many_concurrent_executors_are_independent(tmp_path):
    run_script(CLOSE_IN_TURN, tmp_path)


def test_closed_executors_leave_nothing_open(block_allocation):
    before, threads = psutil.Process().num_fds(), set(threading.enumerate())
    exe = Executor(max_workers=2, block_allocation=block_allocation)
    exe.submit(os.getpid).result()
    exe.shutdown()
    assert psutil.Process().num_fds() <= before
    assert set(threading.enumerate()) <= threads
