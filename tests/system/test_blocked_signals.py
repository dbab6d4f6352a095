"""Programs that block or change signals: with `signalfd`, a thread for signals, or SIGPIPE as command line programs have it."""

from __future__ import annotations

import pytest

from support.scripts import Script, run_script

BLOCK = """
import os, signal, sys
from pympipool import Executor, ShellExecutor
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

def mask():
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), signal.getsignal(signal.SIGUSR1)

CLEAN = [], signal.SIG_DFL
"""

CALLS = """
with Executor(max_workers=4, block_allocation=BLOCKS) as exe:
    assert [exe.submit(pow, 2, i).result(timeout=60) for i in range(6)] == [1, 2, 4, 8, 16, 32]
    assert type(exe.submit(os._exit, 7).exception(timeout=60)).__name__ == "WorkerDied"
    assert {repr(call.result(timeout=60)) for call in [exe.submit(mask) for _ in range(8)]} == {repr(CLEAN)}
"""

RANKS = """
with Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
    assert exe.submit(mask).result(timeout=60) == [CLEAN, CLEAN]
    assert type(exe.submit(os._exit, 7).exception(timeout=60)).__name__ == "WorkerDied"
    assert exe.submit(pow, 2, 3).result(timeout=60) == [8, 8]
"""

PROGRAMS = """
with ShellExecutor(["sh", "-c", "grep SigBlk /proc/self/status"]) as exe:
    assert int(exe.submit("", lines_to_read=1).result(timeout=60).split()[1], 16) == 0
"""


@pytest.mark.parametrize("block_allocation", [True, False])
def test_workers_do_not_inherit_blocked_signals(tmp_path, block_allocation):
    run_script(BLOCK + CALLS.replace("BLOCKS", str(block_allocation)), tmp_path)


@pytest.mark.mpi
def test_ranks_do_not_inherit_blocked_signals(tmp_path):
    run_script(BLOCK + RANKS, tmp_path)


def test_external_programs_do_not_inherit_blocked_signals(tmp_path):
    run_script(BLOCK + PROGRAMS, tmp_path)


PIPE = """
import os, signal, sys, time
import psutil
from pympipool import Executor
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with Executor(max_workers=2, block_allocation=False) as exe:
    for _ in range(3):
        assert exe.submit(pow, 2, 3).result(timeout=60) == 8
        [server] = [child for child in psutil.Process().children() if "pympipool_fork_server" in child.cmdline()]
        server.kill()
        server.wait(60)
    assert exe.submit(pow, 2, 3).result(timeout=60) == 8
exe.shutdown()
"""


def test_helper_that_died_ends_no_script(tmp_path):
    with Script(PIPE, tmp_path) as script:
        code, _, stderr = script.end()
    assert code == 0, stderr
