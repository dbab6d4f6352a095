"""Which process holds a lock of a file."""

import fcntl
import os
import signal
import subprocess
import sys

import psutil
import pytest

from pympipool._util.exit_codes import process_state
from pympipool._util.file_locks import describe_holder, describe_process, lock_holders
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists locks in /proc/locks: run it there")


def test_the_holder_of_a_flock_is_found(tmp_path):
    path = str(tmp_path / "lock")
    with open(path, "w") as file:
        assert lock_holders(path) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock_holders(path) == [os.getpid()]
        assert describe_holder(path) == "", "this process itself is no other one"
    assert lock_holders(path) == []


def test_readers_and_writers_are_told_apart(tmp_path):
    path = str(tmp_path / "lock")
    with open(path, "w+") as file:
        fcntl.lockf(file, fcntl.LOCK_SH)
        assert lock_holders(path) == []
        assert lock_holders(path, kind="READ") == [os.getpid()]


def test_another_file_of_its_number_is_ignored(tmp_path):
    path = str(tmp_path / "lock")
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        link = str(tmp_path / "other")
        os.link(path, link)  # the same number, and another path than the process has opened
        assert lock_holders(link) == []


def test_states_of_processes_are_described():
    with subprocess.Popen([sys.executable, "-c", "input()", "two\nlines"], stdin=subprocess.PIPE) as child:
        try:
            process = psutil.Process(child.pid)
            wait_until(lambda: process.status() == psutil.STATUS_SLEEPING)
            assert describe_process(child.pid) == (
                f"process {child.pid} ({sys.executable} -c input() two lines): look what it waits for (its state is S), or end"
                f" it by kill -9 {child.pid}"
            )
            process.suspend()
            wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
            assert "which was stopped: let it go on by kill -CONT" in describe_process(child.pid)
        finally:
            child.kill()


TRACED = "import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19)"


def test_a_process_under_a_debugger_is_described():
    with subprocess.Popen([sys.executable, "-c", TRACED]) as child:
        try:
            wait_until(lambda: process_state(child.pid) == "t")
            words = f"which a debugger (process {os.getpid()}) has stopped: let it go on there, or end it by kill -9 {child.pid}"
            assert describe_process(child.pid).endswith(words)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED)  # `wait` would be told of the stop
