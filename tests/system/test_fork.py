"""`fork()` in the user's program, after an executor was made, harms neither side."""

import pytest
from system.observe import Script, run_script

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
    # The exit code says whether function() returned something true; it must do so within ten seconds.
    import signal

    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
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


def test_the_parent_goes_on_after_a_fork(tmp_path):
    run("check(in_child(lambda: True))\nall_is_well()\n", tmp_path)


def test_the_parent_goes_on_while_the_child_lives(tmp_path):
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


def test_calls_that_run_during_the_fork_end_in_the_parent(tmp_path):
    script = """
import time
calls = [exe.submit(time.sleep, 0.001) for _ in range(300)] + [exe.submit(pow, 2, i) for i in range(300)]
for _ in range(10):
    check(in_child(lambda: True))
assert [call.result() for call in calls[300:]] == [2**i for i in range(300)]
"""
    run(script, tmp_path)


def test_the_child_is_told_that_the_executor_is_not_its_own(tmp_path):
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


def test_the_child_can_close_the_executor_for_itself(tmp_path):
    script = """
def close():
    exe.shutdown()
    return True

check(in_child(close))
all_is_well()
"""
    run(script, tmp_path)


def test_the_child_can_make_an_executor_of_its_own(tmp_path):
    script = """
def use_own():
    with Executor(max_workers=1, block_allocation=True) as own:
        return own.submit(pow, 3, 2).result() == 9

check(in_child(use_own))
all_is_well()
"""
    run(script, tmp_path)


LOOKS = {
    "done": "call.done() in (True, False)",
    "running": "call.running() in (True, False)",
    "cancel": "call.cancel() in (True, False)",
    "repr": "repr(call)",
    "callback": "call.add_done_callback(print) is None",
    "len": "len(exe) >= 0",
    "info": "exe.info",
    "del": "globals().pop('exe') and globals().pop('calls') and __import__('gc').collect() >= 0",
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_the_child_does_with_futures_does_not_harm_the_parent(tmp_path, look):
    script = f"""
import time
calls = [exe.submit(time.sleep, 0.002) for _ in range(50)] + [exe.submit(pow, 2, i) for i in range(100)]

def look():
    call = None
    for call in calls:
        if not ({LOOKS[look]}):
            return False
    return True

check(in_child(look))
assert [call.result(timeout=20) for call in calls[50:]] == [2**i for i in range(100)]
all_is_well()
"""
    if look == "del":
        script = script.replace("for call in calls:\n", "for _ in range(1):\n")
    run(script, tmp_path)


def test_a_child_that_waits_for_a_result_of_the_parent_is_told_so_and_harms_nobody(tmp_path):
    script = """
import time
calls = [exe.submit(time.sleep, 0.5)] + [exe.submit(pow, 2, i) for i in range(100)]

def wait():
    try:
        calls[0].result(timeout=1)
    except (RuntimeError, futures.TimeoutError, futures.CancelledError):
        return True
    return False

check(in_child(wait))
assert [call.result(timeout=20) for call in calls[1:]] == [2**i for i in range(100)]
all_is_well()
"""
    run(script, tmp_path)


def test_a_result_that_was_there_before_the_fork_is_there_in_the_child(tmp_path):
    script = """
call = exe.submit(pow, 2, 5)
futures.wait([call])
check(in_child(lambda: call.result() == 32))
assert call.result() == 32
"""
    run(script, tmp_path)


def test_a_child_that_ends_like_a_program_leaves_the_parent_alone(tmp_path):
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


def test_workers_end_with_the_master_although_a_forked_child_lives_on(tmp_path):
    script = """
import time
worker = exe.submit(os.getpid).result()
exe.submit(time.sleep, 1000)
pid = os.fork()
if pid == 0:
    os.close(1), os.close(2)
    time.sleep(30)
    os._exit(0)
print(worker, flush=True)
os.kill(os.getpid(), 9)
"""
    with Script(START + script, tmp_path) as running:
        _, stdout, stderr = running.end()
        assert stdout, stderr
        alive = running.survivors(timeout_s=2)
        assert len(alive) == 1, alive  # the child
