"""A test or a script that hangs is reported with its stacks before it is ended."""

import os
import shutil
import sys
import time

import pytest

from support.hang_report import report
from support.hang_watch import HangWatch
from support.scripts import Script

HANGS = """
import threading, time
from pympipool import Executor

def the_thread_sleeps():
    time.sleep(1000)

def the_call_sleeps():
    print("begun", flush=True)
    time.sleep(1000)

def the_script_waits(exe):
    exe.submit(the_call_sleeps).result()

threading.Thread(target=the_thread_sleeps, daemon=True).start()
with Executor(max_workers=1, block_allocation=True) as exe:
    exe.submit(abs, 1).result()
    the_script_waits(exe)
"""

needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="stacks need gdb: apt-get install gdb")


def test_script_that_hangs_is_reported(tmp_path):
    with Script(HANGS, tmp_path) as script:
        script.wait_for_line("begun")
        with pytest.raises(AssertionError, match="did not end within") as raised:
            script.end(timeout_s=1)
    text = str(raised.value)
    assert f"process {script.process.pid}, parent {os.getpid()}" in text
    assert "from pympipool.worker import main" in text  # its worker


@needs_gdb
def test_report_shows_stacks_of_master_and_worker(tmp_path):
    with Script(HANGS, tmp_path) as script:
        script.wait_for_line("begun")
        script.wait_until_asleep()
        text = report(script.process.pid)
    for function in ("the_script_waits", "the_thread_sleeps", "the_call_sleeps", "pmp_wait", "event_loop.py"):
        assert function in text


def test_report_of_an_ended_process():
    assert "has ended" in report(2**22 + 1)


@needs_gdb
def test_watch_reports_only_a_slow_test(tmp_path):
    watch = HangWatch(tmp_path, stderr=2)
    try:
        watch.begin("a quick test", limit_s=1000)
        assert watch.report() is None
        watch.end()
        assert watch.report() is None
        watch.begin("a slow test", limit_s=0.1)
        time.sleep(0.1)
        assert "test_watch_reports_only_a_slow_test" in watch.report()
        assert watch.report() is None, "its fixtures fail, too"
        watch.end()
    finally:
        watch.close()


def test_watch_kills_pytest_that_does_not_end(tmp_path):
    source = (
        "import os, sys, time\n"
        f"sys.path.append({os.path.dirname(os.path.dirname(report.__code__.co_filename))!r})\n"
        "from pathlib import Path\n"
        "from support import hang_watch\n"
        "hang_watch.KILL_S = 0\n"
        f"hang_watch.HangWatch(Path({str(tmp_path)!r}), stderr=2).begin('a deaf test', limit_s=0.1)\n"
        "time.sleep(1000)\n"
    )
    with Script(source, tmp_path, command=[sys.executable, "-c", source][1:]) as script:
        code, _, stderr = script.end()
    assert code == -6
    assert "a deaf test does not end" in stderr
