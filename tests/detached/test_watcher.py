"""The thread that ends the futures of detached calls: nothing waits for ever, whatever users run there, and if it fails."""

import os
import threading

import pytest

from pympipool.detached.submitting import Group
from pympipool.errors import JobError
from support.calls import square
from support.made_up_scheduler import pickled, submit
from support.waiting import wait_until


def raise_exit():
    raise SystemExit(7)


def in_fork(function):
    """Return what a function returns in a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, function().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def failure_of(function, *args):
    try:
        return repr(function(*args))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_a_callback_may_wait_for_another_call(exe, scheduler):
    got = []
    first, second = submit(exe, scheduler, square, 3), submit(exe, scheduler, square, 4)
    first.add_done_callback(lambda _: got.append(second.result(60)))
    scheduler.end("1", 0, pickled(9))
    wait_until(first.done)
    scheduler.end("2", 0, pickled(16))
    wait_until(lambda: got)
    assert got == [16]


def test_shutdown_waits_for_callbacks(exe, scheduler):
    got = []
    calls = [submit(exe, scheduler, square, x) for x in (3, 4)]
    calls[0].add_done_callback(lambda _: raise_exit())
    calls[1].add_done_callback(lambda _: got.append(threading.current_thread().name))
    for job in ("1", "2"):
        scheduler.end(job, 0, pickled(job))
        wait_until(calls[int(job) - 1].done)
    exe.shutdown()
    assert got == ["pympipool_callbacks"]


def test_the_thread_itself_must_not_wait(exe, scheduler):
    got = []
    call = submit(exe, scheduler, square, 3)
    for wait in (call.result, call.exception):
        exe._engine._watcher._mailbox.post(lambda wait=wait: got.append(failure_of(wait, 20)))
    wait_until(lambda: len(got) == 2)
    assert all(words.startswith("RuntimeError: code in a thread of this executor") for words in got), got


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork, in a process with threads
def test_a_fork_does_not_wait_for_calls(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    assert "the process that this one is a fork of" in in_fork(lambda: failure_of(call.result, 20))


def test_calls_fail_if_the_thread_fails(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    exe._engine._watcher._mailbox.post(raise_exit)
    assert "SystemExit(7)" in str(call.exception(60))
    with pytest.raises(RuntimeError, match="make another Executor"):
        exe.submit(square, 4)


def test_a_call_during_shutdown_fails(exe, scheduler):
    future, call = exe._engine._prepare(square, (3,), {}, exe._resources, None)
    exe.shutdown()
    exe._engine._watcher.submit(Group([call], call.resources))
    with pytest.raises(JobError, match="the executor was shut down"):
        future.result(60)
