"""Ctrl-C and SIGTERM end the program and all processes that it has started."""

import os
import signal
import subprocess
import time

import pytest

from pympipool import Executor
from support.scripts import Script
from support.timing import quickest

START = """
import signal
import sys
import time
from concurrent import futures
from pathlib import Path

from pympipool import Executor

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started us may have it ignored


def work():
    Path("begun").write_text("x")  # a named pipe
    time.sleep(1000)


def begin(exe):
    call = exe.submit(work)
    Path("begun").read_text()
    print("begun", flush=True)
    return call

"""

WAITS = {
    "for a result": """
exe = Executor(max_workers=2, block_allocation=True)
begin(exe).result()
""",
    "for a result in a with block": """
with Executor(max_workers=2, block_allocation=True) as exe:
    begin(exe).result()
""",
    "for a result with time limit": """
with Executor(max_workers=2, block_allocation=True) as exe:
    begin(exe).result(timeout=500)
""",
    "for results of map": """
with Executor(max_workers=2, block_allocation=True) as exe:
    results = exe.map(time.sleep, [1000] * 10)
    begin(Executor(max_workers=1, block_allocation=True))
    list(results)
""",
    "with concurrent.futures.wait": """
with Executor(max_workers=2, block_allocation=True) as exe:
    futures.wait([begin(exe)])
""",
    "in shutdown": """
exe = Executor(max_workers=2, block_allocation=True)
begin(exe)
exe.shutdown()
""",
    "at the end of a with block": """
with Executor(max_workers=2, block_allocation=True) as exe:
    begin(exe)
""",
    "for something else": """
with Executor(max_workers=2, block_allocation=True) as exe:
    begin(exe)
    time.sleep(1000)
""",
    "while another thread waits for the result": """
import threading
with Executor(max_workers=2, block_allocation=True) as exe:
    call = begin(exe)
    threading.Thread(target=lambda: call.exception(), daemon=True).start()
    call.result()
""",
}

MPI = """
with Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
    def work_together():
        from mpi4py import MPI
        if MPI.COMM_WORLD.rank == 0:
            work()
        MPI.COMM_WORLD.barrier()
    call = exe.submit(work_together)
    Path("begun").read_text()
    print("begun", flush=True)
    call.result()
"""


def interrupt(source, folder, number=signal.SIGINT):
    """Run a script, send the signal once it waits, and return exit code, stderr and surviving processes."""
    os.mkfifo(folder / "begun")
    with Script(START + source, folder) as script:
        script.wait_for_line("begun")
        script.wait_until_asleep()
        script.process.send_signal(number)
        code, _, stderr = script.end()
        return code, stderr, script.survivors()


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_program_that_waits(tmp_path, wait):
    code, stderr, survivors = interrupt(WAITS[wait], tmp_path)
    assert code == -signal.SIGINT
    assert stderr.count("KeyboardInterrupt") == 1
    assert stderr.count("Traceback") == 1
    assert survivors == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.alone
def test_interrupted_program_ends_within_two_seconds(tmp_path, number):
    os.mkfifo(tmp_path / "begun")

    def end_s():
        with Script(START + WAITS["for a result in a with block"], tmp_path) as script:
            script.wait_for_line("begun")
            begin = time.monotonic()
            script.process.send_signal(number)
            script.end()
            assert script.survivors() == []
            return time.monotonic() - begin

    assert quickest(end_s, 2.0) < 2.0


@pytest.mark.mpi
def test_ctrl_c_ends_ranks_in_a_collective(tmp_path):
    code, stderr, survivors = interrupt(MPI, tmp_path)
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr
    assert survivors == []


@pytest.mark.parametrize("wait", ["for a result in a with block", "at the end of a with block", "for something else"])
def test_sigterm_ends_everything(tmp_path, wait):
    code, stderr, survivors = interrupt(WAITS[wait], tmp_path, signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert stderr == ""
    assert survivors == []


def test_sighup_ends_everything(tmp_path):
    code, _, survivors = interrupt(WAITS["for a result"], tmp_path, signal.SIGHUP)
    assert code == -signal.SIGHUP
    assert survivors == []


def test_caught_ctrl_c_leaves_executor_usable(tmp_path):
    script = """
exe = Executor(max_workers=2, block_allocation=True)
call = exe.submit(work)
try:
    Path("begun").read_text()
    print("begun", flush=True)
    call.result()
except KeyboardInterrupt:
    print("caught", exe.submit(pow, 2, 3).result(), call.running(), flush=True)
    Path("end").read_text()
"""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "end")
    with Script(START + script, tmp_path) as running:
        running.wait_for_line("begun")
        running.wait_until_asleep()
        running.process.send_signal(signal.SIGINT)
        assert running.wait_for_line("caught") == "8 True"


def test_calls_do_not_receive_ctrl_c(tmp_path):
    """A terminal sends SIGINT to all processes of its group, but the master decides which calls end."""
    script = """
exe = Executor(max_workers=1, block_allocation=True)

def work():
    Path("begun").write_text("x")
    Path("end").read_text()
    return "not interrupted"

call = exe.submit(work)
try:
    Path("begun").read_text()
    print("begun", flush=True)
    call.result()
except KeyboardInterrupt:
    Path("end").write_text("x")
    print("result", call.result(), flush=True)
exe.shutdown()
"""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "end")
    with Script(START + script, tmp_path, group=True) as running:
        running.wait_for_line("begun")
        running.wait_until_asleep()
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait_for_line("result") == "not interrupted"
        assert running.end()[0] == 0


def test_programs_have_exit_codes_if_sigchld_is_ignored():
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Executor(max_workers=1, block_allocation=True) as exe:
            call = exe.submit(lambda: subprocess.run(["sh", "-c", "exit 5"], check=False).returncode)
            assert call.result(timeout=60) == 5
    finally:
        signal.signal(signal.SIGCHLD, former)
