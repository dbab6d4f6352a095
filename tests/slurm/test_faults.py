"""Parts of SLURM, hosts and helpers that are killed, stopped, cut off or late. Calls end, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.slurm import job_watch
from pympipool.detached.slurm import SlurmScheduler
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import hold, square
from support.processes import children_with
from support.slurm_cluster import EITHER_MODE, LONG, MODES, sruns
from support.waiting import wait_until


@pytest.fixture
def make_executor(cluster, second_host, opened):
    def make(max_cores=1, **parameters):
        options = {"command_line_argument_lst": [f"--nodelist={second_host}"], "connect_timeout": 20.0, **parameters}
        opened.append(Executor(max_cores=max_cores, backend="slurm", **options))
        return opened[-1]

    return make


@pytest.fixture
def occupied(cluster, second_host):
    """Occupy the second host, so that jobs wait for it."""
    command = ["srun", f"--nodelist={second_host}", "--exclusive", "--ntasks=1", "--job-name=other", "sleep", "300"]
    environment = {**os.environ, "SLURM_CONF": cluster.conf}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as blocker:
        wait_until(lambda: "RUNNING" in cluster.run("squeue", "--noheader", "--name=other", "--format=%T"))
        yield
        cluster.run("scancel", "--name=other")
        blocker.wait()


def waiting_jobs(cluster):
    return [name for name in names_of_jobs(cluster, "PENDING") if name.startswith("pympipool")]


def names_of_jobs(cluster, *states):
    options = [f"--states={','.join(states)}"] if states else []
    return cluster.run("squeue", "--noheader", *options, "--format=%j").split()


# ---- the queue ----


@MODES
@pytest.mark.parametrize("way", ["cancel", "shutdown", "shutdown without waiting"])
def test_waiting_calls_leave_the_queue(make_executor, cluster, occupied, block_allocation, way):
    exe = make_executor(2, block_allocation=block_allocation)
    calls = [exe.submit(square, i) for i in range(3)]
    wait_until(lambda: len(waiting_jobs(cluster)) == 2)
    if way == "cancel":
        assert all(call.cancel() for call in calls)
        exe.shutdown()
    else:
        exe.shutdown(wait=way == "shutdown", cancel_futures=True)
    assert all(call.cancelled() for call in calls)
    wait_until(lambda: waiting_jobs(cluster) == [])


@MODES
def test_job_that_the_controller_forgets_is_requested_again(
    make_executor, cluster, second_host, block_allocation, monkeypatch
):
    monkeypatch.setattr(job_watch, "FORGOTTEN_AFTER_S", 3.0)
    monkeypatch.setattr(job_watch, "NEVER_KNOWN_AFTER_S", 3.0)
    monkeypatch.setattr(job_watch, "LONGEST_PAUSE_S", 2.0)
    exe = make_executor(block_allocation=block_allocation)
    cluster.run("scontrol", "update", f"NodeName={second_host}", "State=DRAIN", "Reason=test")
    try:
        call = exe.submit(square, 3)
        wait_until(lambda: waiting_jobs(cluster))
        cluster.kill_controller()
        for file in (cluster.folder / "state").glob("job_state*"):
            file.unlink()
        cluster.start_controller()
    finally:
        cluster.run("scontrol", "update", f"NodeName={second_host}", "State=RESUME", check=False)
    assert call.result(timeout=150) == 9


# ---- starts ----


@MODES
def test_killed_srun_leaves_no_job(make_executor, cluster, block_allocation, monkeypatch):
    monkeypatch.setattr(job_watch, "CLOSING_PAUSE_S", 4)  # as it is: requests of killed sruns may be under way
    exe = make_executor(2, block_allocation=block_allocation)
    stop, killed = threading.Event(), set()

    def kill_young():
        while not stop.wait(0.005):
            with contextlib.suppress(psutil.Error):  # an srun may end in between
                for srun in sruns():
                    if srun.pid not in killed:
                        killed.add(srun.pid)
                        time.sleep(0.02 * (len(killed) % 6))
                        srun.kill()

    thread = threading.Thread(target=kill_young)
    thread.start()
    calls = [exe.submit(square, i) for i in range(6)]
    wait_until(lambda: len(killed) >= 6 or all(call.done() for call in calls))
    stop.set()
    thread.join()
    assert killed
    for call in calls:
        assert isinstance(call.exception(timeout=60), (WorkerDied, WorkerStartError, type(None)))
    exe.shutdown()
    wait_until(lambda: names_of_jobs(cluster) == [])


@EITHER_MODE
@pytest.mark.alone
def test_worker_cut_off_before_it_connects_is_replaced(make_executor, cluster, block_allocation, tmp_path):
    prolog = tmp_path / "prolog"
    prolog.write_text("#!/bin/sh\nsleep 2\n")
    prolog.chmod(0o755)
    options = [f"--nodelist={cluster.second}", f"--task-prolog={prolog}"]
    exe = make_executor(block_allocation=block_allocation, connect_timeout=4.0, command_line_argument_lst=options)
    call = exe.submit(square, 3)
    wait_until(lambda: "pympipool" in cluster.run("squeue", "--noheader", "--steps", "--format=%j"))
    cluster.cut_off()
    first = sruns()
    wait_until(lambda: not any(srun.is_running() for srun in first))
    cluster.repair()
    assert call.result(timeout=150) == 9


@LONG
@MODES
def test_controller_outage_is_waited_out(make_executor, cluster, block_allocation):
    exe = make_executor(4, block_allocation=block_allocation)
    assert list(exe.map(square, range(4))) == [0, 1, 4, 9]
    cluster.kill_controller()
    for srun in sruns():
        srun.kill()
    calls = [exe.submit(square, i) for i in range(8)]
    with pytest.raises(WorkerStartError, match="job 123456 is not cancelled: "):
        SlurmScheduler().cancel("123456", None)
    time.sleep(40)
    cluster.start_controller()
    SlurmScheduler().cancel("123456", [0, 1])  # no such job: there is nothing to do
    assert [call.result(timeout=150) for call in calls] == [i * i for i in range(8)]


# ---- messages ----


def test_killed_srun_is_named_and_no_worker_blamed(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    sruns()[0].kill()
    error = call.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert error.exit_code is None
    assert "its srun on" in str(error)
    assert "died of SIGKILL" in error.lost_reason


def test_dead_host_is_not_shortage_of_memory(make_executor, cluster, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    cluster.end_second()
    error = call.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert "out of memory" not in str(error)
    assert "its host may be down" in str(error)
    exe.shutdown(cancel_futures=True)


# ---- helpers ----


def find_relay():
    (relay,) = children_with("transport.tcp.relay")
    return relay


def test_killed_relay_is_named_and_no_worker_blamed(make_executor, gate):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    relay = find_relay()
    relay.kill()
    error = call.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert f"(pid {relay.pid}), through which it was connected, has ended" in str(error)
    assert error.exit_code is None


@LONG
@MODES
def test_stopped_relay_is_replaced(make_executor, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    find_relay().suspend()
    assert "did not answer" in str(call.exception(timeout=60))
    assert exe.submit(square, 3).result(timeout=60) == 9


@pytest.mark.mpi
def test_files_of_killed_ranks_are_removed(make_executor, cluster):
    left = "/dev/shm/mpich_shm_left_by_a_rank"
    cluster.on_second("touch", left)
    exe = make_executor(2, cores_per_worker=2)
    assert exe.submit(square, 3).result() == [9, 9]
    exe.shutdown()
    wait_until(lambda: cluster.on_second("ls", left).returncode != 0)
