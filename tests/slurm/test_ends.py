"""After any kill, calls end with an error, workers are replaced, and nothing is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import pid, square
from support.processes import children_with, marked_processes
from support.scripts import Script
from support.slurm_cluster import Cluster, sruns
from support.timing import quickest

NOTICED_S = 5.0
"""Seconds after the loss of the network within which the worker must exit and its call must fail."""


@pytest.fixture(params=["own host", "second host"])
def where(request, cluster: Cluster):
    if request.param == "own host":
        return cluster.first
    if cluster.second is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    return cluster.second


@pytest.fixture
def make_executor(job):
    executors = []

    def make(where, **parameters):
        options = {"backend": "slurm", "block_allocation": True, "command_line_argument_lst": [f"--nodelist={where}"]}
        executors.append(Executor(**{"max_cores": 1, **options, **parameters}))
        return executors[-1]

    yield make
    for exe in executors:
        exe.shutdown(cancel_futures=True)


def begin(exe, function, *arguments):
    """Submit a call and wait until it runs."""
    exe.submit(pid).result()
    call = exe.submit(function, *arguments)
    while not call.running():
        time.sleep(0.001)
    return call


def hold_the_lock(seconds):
    """Hold the GIL, so that no other thread of the process can run."""
    ctypes.PyDLL(None).sleep(seconds)
    return "still alive"


def workers_elsewhere(mark):
    """Return our processes on the second host, which are those in another network namespace."""
    here, found = os.readlink("/proc/self/ns/net"), []
    for process in marked_processes(mark):
        with contextlib.suppress(FileNotFoundError):  # it has ended, as questions to the controller do
            if os.readlink(f"/proc/{process.pid}/ns/net") != here:
                found.append(process)
    return found


def kill_step(cluster, job):
    step = cluster.run("squeue", "-h", "-s", "-o", "%i %j").split()
    cluster.run(
        "scancel", next(one for one, name in zip(step[::2], step[1::2], strict=True) if name.startswith("pympipool"))
    )


def kill_srun(cluster, job):
    sruns()[0].kill()


def kill_group_of_srun(cluster, job):
    os.killpg(sruns()[0].pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_step, kill_srun, kill_group_of_srun])
def test_call_fails_and_later_calls_run(make_executor, cluster, job, where, kill):
    exe = make_executor(where)
    call = begin(exe, time.sleep, 100)
    worker = psutil.Process(exe.info["workers"][0]["pid"]) if where == cluster.first else None
    kill(cluster, job)
    assert isinstance(call.exception(timeout=60), WorkerDied)
    assert exe.submit(square, 3).result() == 9
    if worker is not None:
        worker.wait(60)


def test_call_holding_the_gil_is_not_killed(make_executor, job, second_host):
    exe = make_executor(second_host)
    assert exe.submit(hold_the_lock, 8).result(timeout=60) == "still alive"


@pytest.mark.parametrize("function", [time.sleep, hold_the_lock])
@pytest.mark.alone
def test_both_sides_notice_a_disconnected_host(make_executor, cluster, job, second_host, function, mark):
    def noticed_s():
        cluster.repair()
        call = begin(make_executor(second_host), function, 1000)
        workers = workers_elsewhere(mark)
        assert workers
        cut_s = time.monotonic()
        cluster.cut_off()
        error = call.exception(timeout=60)
        assert isinstance(error, WorkerDied)
        assert (error.host, error.exit_code) == (second_host, None)
        assert "has not answered" in str(error)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert alive == []
        return time.monotonic() - cut_s

    assert quickest(noticed_s, NOTICED_S, tries=3) < NOTICED_S


def test_a_host_that_dies_is_noticed(make_executor, cluster, job, second_host):
    exe = make_executor(second_host)
    call = begin(exe, time.sleep, 100)
    cluster.end_second()
    assert isinstance(call.exception(timeout=60), WorkerDied)


MASTER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from support.calls import pid
from pympipool import Executor

with Executor(
    max_cores=3, backend="slurm", block_allocation={block}, command_line_argument_lst=["--nodelist={where}"]
) as exe:
    calls = [exe.submit(time.sleep, 100) for _ in range(3)]
    while not calls[0].running():
        time.sleep(0.01)
    print("running", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("block", [True, False], ids=["block_allocation", "single"])
def test_no_step_survives_its_master(cluster, job, where, tmp_path, number, block):
    tests = str(Path(__file__).parents[1])
    source = MASTER.format(tests=tests, where=where, block=block)
    with Script(source, tmp_path) as script:
        script.wait_for_line("running")
        script.process.send_signal(number)
        assert script.survivors() == []
    assert "pympipool" not in _steps_after(cluster, 60.0)


def test_queued_srun_ends_with_the_master(cluster, job, tmp_path):
    tests = str(Path(__file__).parents[1])
    source = MASTER.format(tests=tests, where=cluster.first, block=True).replace("max_cores=3", "max_cores=12")
    with Script(source, tmp_path) as script:
        script.wait_for_line("running")
        script.process.kill()
        assert script.survivors() == []


def _steps_after(cluster, limit_s):
    deadline = time.monotonic() + limit_s
    while True:
        steps = cluster.run("squeue", "-h", "-s", "-o", "%i %j")
        if "pympipool" not in steps or time.monotonic() > deadline:
            return steps
        time.sleep(0.1)


# ---- strangers ----

STRANGER = """
import socket, sys
sys.path.insert(0, {source!r})
from pympipool.transport.tcp.handshake import client_context, client_handshake
address = sys.argv[1], int(sys.argv[2])
for said in (b"", b"GET / HTTP/1.0" + bytes(100), bytes(5000)):
    with socket.create_connection(address, 5) as stranger:
        try:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) in (b"", b"\\x15"), said
        except OSError:
            pass
try:
    client_handshake(socket.create_connection(address, 5), client_context(), bytes(32))
except OSError as error:
    print("refused", error)
"""


def test_strangers_on_another_host_are_refused(make_executor, cluster, job, second_host):
    exe = make_executor(second_host)
    assert exe.submit(square, 2).result() == 4
    (relay,) = children_with("transport.tcp.relay")
    port = next(one.laddr.port for one in relay.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    source = STRANGER.format(source=str(Path(sys.modules["pympipool"].__file__).parents[1]))
    done = cluster.on_second(sys.executable, "-c", source, "10.77.0.1", str(port))
    assert done.stdout.startswith("refused"), done.stderr
    assert exe.submit(square, 3).result() == 9
