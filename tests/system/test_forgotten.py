"""Programs that never call `shutdown` end normally, and their calls run to the end."""

import gc
import threading
import weakref

import psutil
import pytest

from pympipool import Executor
from support.calls import hold, pid, square
from support.processes import still_alive
from support.scripts import Script, run_script

FORGET = """
import sys
import time
from pathlib import Path
from pympipool import Executor

exe = Executor(max_workers=2, block_allocation=True)

def leave_file(number):
    time.sleep(0.02)
    Path(f"file-{{number}}").touch()

calls = [exe.submit(leave_file, number) for number in range(20)]
{end}
"""

ENDS = {
    "by its last line": ("", 0),
    "by sys.exit": ("sys.exit(3)", 3),
    "by an exception": ("raise LookupError('of the user')", 1),
    "after it has forgotten the executor": ("del exe", 0),
    "after it has forgotten executor and calls": ("del exe, calls", 0),
    "after a shutdown that does not wait": ("exe.shutdown(wait=False)", 0),
    "with another thread that waits for a result": (
        "import threading\nthreading.Thread(target=lambda: [call.result() for call in calls]).start()",
        0,
    ),
    "with a daemon thread that waits for a result": (
        "import threading\nthreading.Thread(target=lambda: [call.result() for call in calls], daemon=True).start()",
        0,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_script_without_shutdown_ends_after_its_calls(tmp_path, how):
    end, expected_code = ENDS[how]
    with Script(FORGET.format(end=end), tmp_path) as script:
        code, stdout, stderr = script.end()
        assert code == expected_code, stderr
        assert stdout == ""
        assert stderr == "" or ("LookupError: of the user" in stderr and stderr.count("Traceback") == 1)
        assert {path.name for path in tmp_path.glob("file-*")} == {f"file-{i}" for i in range(20)}
        assert script.survivors() == []


def test_script_with_unused_executor_ends(tmp_path):
    run_script("from pympipool import Executor\nexe = Executor(max_workers=2, block_allocation=True)\n", tmp_path)


def test_script_with_executor_in_reference_cycle_ends(tmp_path):
    script = """
from pympipool import Executor
class Holder: pass
holder = Holder()
holder.me = holder
holder.exe = Executor(max_workers=1, block_allocation=True)
holder.call = holder.exe.submit(pow, 2, 3)
holder.call.add_done_callback(lambda call: print(call.result(), bool(holder.exe)))
"""
    assert run_script(script, tmp_path) == "8 True\n"


def test_script_with_unseen_failure_ends_silently(tmp_path):
    script = """
from pympipool import Executor
exe = Executor(max_workers=1, block_allocation=True)
exe.submit(divmod, 1, 0)
"""
    with Script(script, tmp_path) as running:
        assert running.end() == (0, "", "")


def test_atexit_function_can_use_executor(tmp_path):
    script = """
import atexit
from pympipool import Executor
exe = Executor(max_workers=1, block_allocation=True)
atexit.register(lambda: print(exe.submit(pow, 2, 3).result()))
"""
    assert run_script(script, tmp_path) == "8\n"


@pytest.mark.mpi
def test_a_script_with_mpi_workers_without_shutdown_ends(tmp_path):
    script = """
from pympipool import Executor
exe = Executor(max_workers=1, cores_per_worker=2, block_allocation=True)
exe.submit(pow, 2, 3).add_done_callback(lambda call: print(call.result()))
"""
    assert run_script(script, tmp_path) == "[8, 8]\n"


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_workers_end_with_abrupt_end_of_program(tmp_path, end):
    script = f"""
import os
import time
from pympipool import Executor

exe = Executor(max_workers=2, block_allocation=True)
exe.submit(pow, 2, 3).result()
exe.submit(time.sleep, 1000)
{end}
"""
    with Script(script, tmp_path) as running:
        running.end()
        assert running.survivors() == []


# ---- executors without references ----


def test_calls_of_unreferenced_executor_finish(block_allocation, gate):
    exe = Executor(max_workers=1, block_allocation=block_allocation)
    held = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    calls = [exe.submit(square, i) for i in range(20)]
    del exe
    gc.collect()
    gate.open()
    assert held.result() == "held"
    assert [call.result() for call in calls] == [i * i for i in range(20)]


def test_unreferenced_executor_ends_its_workers(gate):
    exe = Executor(max_workers=1, block_allocation=True)
    worker = psutil.Process(exe.submit(pid).result())
    reference = weakref.ref(exe)
    del exe
    assert reference() is None
    assert still_alive([worker]) == []


def test_unreferenced_executor_finishes_dependent_calls(make_executor, gate):
    other = make_executor()
    held = other.submit(hold, gate.path, 3)
    gate.wait_until_begun()
    exe = Executor(max_workers=1, block_allocation=True)
    call = exe.submit(square, held)
    del exe
    gate.open()
    assert call.result() == 9


@pytest.mark.parametrize("how", ["forgotten", "closed without waiting"])
def test_unreferenced_executor_runs_callbacks_and_stops_threads(gate, how):
    others = set(threading.enumerate())
    exe = Executor(max_workers=1, block_allocation=True)
    called = threading.Event()
    exe.submit(hold, gate.path).add_done_callback(lambda _: called.set())
    gate.wait_until_begun()
    if how == "closed without waiting":
        exe.shutdown(wait=False)
    threads = set(threading.enumerate()) - others
    del exe
    gate.open()
    assert called.wait(60)
    threads |= set(threading.enumerate()) - others
    for thread in threads:
        thread.join(60)
    assert [thread.name for thread in threads if thread.is_alive()] == []
