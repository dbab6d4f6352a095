"""`fork()` in a program that has an executor harms neither parent nor child."""

import os
import signal
import threading
import time

import psutil
import pytest

from pympipool import Executor
from support.processes import marked_processes, still_alive
from support.scripts import Script, run_script

START = """
import os
import sys
import warnings
from concurrent import futures
from pympipool import Executor

warnings.simplefilter("ignore")  # Python 3.12 warns of forking a program with threads
exe = Executor(max_workers=2, block_allocation=True)
assert exe.submit(pow, 2, 3).result() == 8


def in_child(function, *args):
    # The exit code says whether function() returned something true; it must do so within a minute.
    import signal

    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            code = 0 if function(*args) else 2
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def check(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"the child ended with {code}"


def all_is_well():
    assert list(exe.map(pow, [2] * 200, range(200))) == [2**i for i in range(200)]
"""


def run(body, tmp_path):
    return run_script(START + body, tmp_path)


def test_parent_continues_after_fork(tmp_path):
    run("check(in_child(lambda: True))\nall_is_well()\n", tmp_path)


def test_parent_continues_while_child_lives(tmp_path):
    script = """
reader, writer = os.pipe()

def live():
    os.close(writer)
    os.read(reader, 1)
    return True

child = in_child(live)
os.close(reader)
all_is_well()
exe.shutdown()
os.close(writer)
check(child)
"""
    run(script, tmp_path)


def test_calls_running_at_fork_end_in_parent(tmp_path):
    script = """
import time
calls = [exe.submit(time.sleep, 0.001) for _ in range(300)] + [exe.submit(pow, 2, i) for i in range(300)]
for _ in range(10):
    check(in_child(lambda: True))
assert [call.result() for call in calls[300:]] == [2**i for i in range(300)]
"""
    run(script, tmp_path)


def test_using_executor_in_child_raises(tmp_path):
    script = """
def submit():
    try:
        exe.submit(pow, 2, 3)
    except RuntimeError as error:
        return "fork" in str(error)

check(in_child(submit))
all_is_well()
"""
    run(script, tmp_path)


def test_shutdown_in_child_affects_only_child(tmp_path):
    script = """
def close():
    exe.shutdown()
    return True

check(in_child(close))
all_is_well()
"""
    run(script, tmp_path)


def test_child_can_create_its_own_executor(tmp_path):
    script = """
def use_own():
    with Executor(max_workers=1, block_allocation=True) as own:
        return own.submit(pow, 3, 2).result() == 9

check(in_child(use_own))
all_is_well()
"""
    run(script, tmp_path)


LOOKS = {
    "done": "call.done()",
    "running": "call.running()",
    "cancel": "call.cancel()",
    "result": "ask(call)",
    "wait": "futures.wait([call], timeout=0.001)",
    "repr": "repr(call)",
    "callback": "call.add_done_callback(print)",
    "len": "len(exe)",
    "info": "exe.info",
    "submit": "submit()",
}


@pytest.mark.parametrize("look", LOOKS)
def test_futures_used_in_child_do_not_affect_parent(tmp_path, look):
    script = f"""
import contextlib
import time
calls = [exe.submit(time.sleep, 0.002) for _ in range(100)] + [exe.submit(pow, 2, i) for i in range(100)]

def ask(call):
    with contextlib.suppress(RuntimeError, futures.TimeoutError, futures.CancelledError):
        call.result(timeout=0.001)

def submit():
    with contextlib.suppress(RuntimeError):
        exe.submit(pow, 2, 3)

def look():
    deadline = time.monotonic() + 0.3  # as long as the parent's calls run
    while time.monotonic() < deadline:
        for call in calls:
            {LOOKS[look]}
    return True

check(in_child(look))
assert [call.result(timeout=60) for call in calls] == [None] * 100 + [2**i for i in range(100)]
all_is_well()
"""
    run(script, tmp_path)


def test_child_dropping_executor_does_not_affect_parent(tmp_path):
    script = """
import gc
import time
calls = [exe.submit(time.sleep, 0.002) for _ in range(100)] + [exe.submit(pow, 2, i) for i in range(100)]

def forget():
    global exe, calls
    del exe, calls
    gc.collect()
    return True

check(in_child(forget))
assert [call.result(timeout=60) for call in calls] == [None] * 100 + [2**i for i in range(100)]
all_is_well()
"""
    run(script, tmp_path)


def test_child_waiting_for_parents_result_does_not_hang(tmp_path):
    script = """
from pathlib import Path
os.mkfifo("go_on")
call = exe.submit(Path.read_text, Path("go_on"))

def wait():
    try:
        call.result()
    except (RuntimeError, futures.CancelledError):
        return True
    return False

check(in_child(wait))
Path("go_on").write_text("it does")
assert call.result(timeout=60) == "it does"
all_is_well()
"""
    run(script, tmp_path)


def test_result_from_before_fork_exists_in_child(tmp_path):
    script = """
call = exe.submit(pow, 2, 5)
futures.wait([call])
check(in_child(lambda: call.result() == 32))
assert call.result() == 32
"""
    run(script, tmp_path)


def test_normal_exit_of_child_does_not_affect_parent(tmp_path):
    script = """
pid = os.fork()
if pid == 0:
    sys.exit(0)  # runs what is registered to run at exit
check(pid)
all_is_well()
"""
    run(script, tmp_path)


def test_processes_of_multiprocessing_can_be_forked(tmp_path):
    script = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
all_is_well()
"""
    run(script, tmp_path)


def test_workers_end_with_master_despite_forked_child(tmp_path):
    script = """
import time
exe.submit(time.sleep, 1000)
child = os.fork()
if child == 0:
    os.close(1), os.close(2)
    time.sleep(1000)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
    with Script(START + script, tmp_path) as running:
        _, stdout, stderr = running.end()
        assert stdout, stderr
        processes = marked_processes(running.mark)
        child = psutil.Process(int(stdout))
        assert child in processes
        assert still_alive([process for process in processes if process != child]) == []
        assert child.is_running()


def test_workers_start_while_other_threads_fork():
    """A forked child must not inherit the pipes whose end of file the start of a worker waits for."""
    stop, forks = threading.Event(), threading.Event()
    children = []

    def fork_on():
        while not stop.wait(0.002) and len(children) < 300:
            pid = os.fork()
            if pid == 0:
                time.sleep(1000)
                os._exit(0)
            children.append(pid)
            forks.set()

    forker = threading.Thread(target=fork_on)
    forker.start()
    try:
        assert forks.wait(60)
        for block_allocation in [True, False] * 4:
            with Executor(max_workers=2, block_allocation=block_allocation) as exe:
                assert [call.result(timeout=60) for call in [exe.submit(pow, i, 2) for i in range(4)]] == [0, 1, 4, 9]
    finally:
        stop.set()
        forker.join()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_child_can_display_executor_of_busy_parent(tmp_path):
    """A lock protects the counters. Another thread may have held it at the fork."""
    body = """
import threading
stop = threading.Event()
def look():
    while not stop.is_set():
        repr(exe)
threads = [threading.Thread(target=look) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(20):
    check(in_child(lambda: "of another process" in repr(exe) and "of another process" in exe._repr_html_()))
stop.set()
all_is_well()
assert "2 workers on" in repr(exe)
"""
    run(body, tmp_path)
