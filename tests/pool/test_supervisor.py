"""Workers whose ends are not noticed in the usual way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from pympipool import Executor
from pympipool._util import subprocesses
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.local.forkserver import ForkserverSpawner
from support.processes import is_alive
from support.scripts import Script
from support.timing import in_time
from support.waiting import LIMIT_S, wait_until


@pytest.fixture
def immortal(monkeypatch):
    """Let no SIGKILL reach workers that are children of the master, as if they hung in the kernel; return their pids."""
    pids = []
    monkeypatch.setattr(ChildProcess, "kill", lambda self: pids.append(self.pid))
    monkeypatch.setattr(ChildProcess, "kill_timeout_s", 0.3)
    yield pids
    monkeypatch.undo()
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)

    def are_reaped():  # again: a process can be waited for only when its last thread has ended
        subprocesses.reap_later()
        return not any(child.pid in pids for child in psutil.Process().children())

    wait_until(are_reaped)


def test_worker_that_cannot_be_killed_is_abandoned(immortal, caplog):
    with Executor(max_workers=1, block_allocation=True, run_time_max=0.2) as exe:
        worker = in_time(lambda: exe.submit(os.getpid).result())
        call = exe.submit(os.kill, worker, signal.SIGSTOP)
        assert isinstance(call.exception(LIMIT_S), TimeoutError)
        assert in_time(lambda: exe.submit(pow, 2, 3).result(LIMIT_S)) == 8
    assert f"process {worker} on" in caplog.text
    assert "is abandoned" in caplog.text


def test_interrupted_executor_ends_without_immortal_worker(immortal):
    exe = Executor(max_workers=1, block_allocation=True)
    pid = exe.submit(os.getpid).result()
    call = exe.submit(os.kill, pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    exe.__exit__(KeyboardInterrupt, None, None)
    assert call.exception(LIMIT_S) is not None


STOPPED = """
import os, psutil, signal, subprocess, sys, time
from pympipool import Executor
me = str(os.getpid())
with Executor(max_workers=1, cores_per_worker=2, block_allocation=True, connect_timeout=3) as exe:
    ranks_are_here = "until [ $(grep -c " + exe._engine.pool.supervisor.listener.address + " /proc/net/unix) -ge 3 ]"
    resume = subprocess.Popen(["sh", "-c", ranks_are_here + "; do sleep 0.1; done; sleep 3.5; kill -CONT " + me])
    while not any("mpiexec" in " ".join(child.cmdline()) for child in psutil.Process().children()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(exe.submit(pow, 2, 3).result(timeout=60))
resume.wait()
"""


@pytest.mark.mpi
def test_connect_timeout_stands_still_while_stopped(tmp_path):
    with Script(STOPPED, tmp_path) as script:
        code, stdout, stderr = script.end()
    assert code == 0, stderr
    assert stdout == "[8, 8]\n"
    assert "connect_timeout" not in stderr


def echo_length(data):
    return len(data)


def test_settings_larger_than_a_socket_arrive():
    data = bytes(20_000_000)
    with Executor(max_workers=1, block_allocation=True, init_function=lambda: {"data": data}) as exe:
        assert exe.submit(echo_length).result(LIMIT_S) == 20_000_000


@pytest.mark.parametrize("block_allocation", [False, True], ids=["per_call", "block_allocation"])
def test_worker_that_ends_at_once_is_replaced(block_allocation, monkeypatch):
    spawner = LocalSpawner if block_allocation else ForkserverSpawner
    start, ended = spawner.start, []

    def start_and_kill(self, request):
        process = start(self, request)
        if not ended:
            process.kill()
            ended.append(process.wait(LIMIT_S))
        return process

    monkeypatch.setattr(spawner, "start", start_and_kill)
    with Executor(max_workers=1, block_allocation=block_allocation) as exe:
        assert exe.submit(pow, 2, 3).result(LIMIT_S) == 8
    assert ended == [-signal.SIGKILL]


def test_modules_for_failures_are_imported_early():
    code = (
        "import sys, time\n"
        "from pympipool import Executor\n"
        "with Executor(max_workers=1) as exe:\n"
        "    wanted = {'pympipool.errors.worker_died', 'multiprocessing.resource_tracker', 'concurrent.futures.process'}\n"
        "    exe.submit(abs, 1).result()\n"
        "    deadline = time.monotonic() + 30\n"
        "    while not wanted <= sys.modules.keys() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "    print(sorted(wanted - sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
