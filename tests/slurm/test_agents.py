"""Agents in a job of SLURM: one step starts them on both hosts, and they fork the workers."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from pympipool import Executor
from pympipool.backends.agent import launch, launches
from pympipool.backends.agent.launcher import agent_command
from pympipool.backends.slurm import agents as slurm_agents
from pympipool.errors import WorkerDied
from support.calls import hold, pid, square
from support.processes import is_alive
from support.scripts import Script
from support.slurm_cluster import EITHER_MODE, MODES, sruns
from support.waiting import wait_until


@pytest.fixture
def make_executor(job, second_host, opened, monkeypatch):
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)

    def make(max_cores=16, **parameters):
        opened.append(Executor(backend="slurm", max_cores=max_cores, **parameters))
        return opened[-1]

    return make


def of_worker(gate):
    hold(gate)
    return socket.gethostname(), os.getppid(), {name: os.environ.get(name) for name in NAMES}


NAMES = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_CPUS_PER_TASK", "PYMPIPOOL_KEY")


def kill_agent(cluster, exe, host):
    agent = exe._engine.pool.spawner._agents._hosts[host].agent_pid
    if host == cluster.second:
        cluster.on_second("kill", "-9", str(agent))
    else:
        os.kill(agent, signal.SIGKILL)


@MODES
def test_one_srun_starts_agents_on_all_hosts(make_executor, cluster, job, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    calls = [exe.submit(of_worker, gate.path) for _ in range(16)]
    gate.wait_until_begun(16)
    assert len(sruns()) == 1
    gate.open(16)
    results = [call.result() for call in calls]
    assert sorted(host for host, _, _ in results) == sorted([cluster.first] * 8 + [cluster.second] * 8)
    assert len({(host, parent) for host, parent, _ in results}) == 2
    assert [dict(variables) for _, _, variables in results] == [
        {
            "SLURM_JOB_ID": job,
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_CPUS_PER_TASK": "1",
            "PYMPIPOOL_KEY": None,
        }
    ] * 16


@pytest.mark.mpi
def test_ranks_find_cores_beside_agents(make_executor):
    exe = make_executor()
    assert exe.submit(square, 2).result() == 4
    assert exe.submit(square, 3, resource_dict={"cores": 16}).result(timeout=60) == [9] * 16
    assert exe.submit(square, 4).result() == 16


def names_of_steps(cluster):
    return [name for name in cluster.run("squeue", "-h", "-s", "-o", "%j").split() if name.startswith("pympipool")]


@pytest.mark.parametrize("wanted", [{"time_limit": 100}, {"step": True}], ids=str)
def test_call_that_wants_it_gets_a_step(make_executor, cluster, gate, wanted):
    exe = make_executor(block_allocation=False)
    assert exe.submit(square, 3).result(60) == 9
    call = exe.submit(hold, gate.path, resource_dict=wanted)
    gate.wait_until_begun()
    assert [name.rpartition("-")[2] for name in names_of_steps(cluster) if "agents" not in name] == ["2"]
    gate.open()
    call.result()


@MODES
@pytest.mark.parametrize("which", ["first", "second"])
def test_killed_agent_loses_its_calls_only(make_executor, cluster, gate, block_allocation, which):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 8})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    host = getattr(cluster, which)
    workers = [worker for worker in exe.info["workers"] if worker["host"] == host]
    kill_agent(cluster, exe, host)
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert f"the agent on {host}" in str(lost.exception())
    worker = workers[0]["pid"]  # it would take what the gate has for the other
    if which == "first":
        wait_until(lambda: not is_alive(worker))
    else:
        wait_until(lambda: cluster.on_second("kill", "-0", str(worker)).returncode != 0)
    gate.open(1)
    (other,) = [call for call in calls if call is not lost]
    assert other.result(timeout=60) != host
    again = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert {call.result() for call in again} == {cluster.first, cluster.second}


def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()


@EITHER_MODE
def test_host_cut_off_loses_its_calls_only(make_executor, cluster, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 8})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    cluster.cut_off()
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert lost.exception().host == cluster.second
    wait_until(lambda: cluster.on_second("pgrep", "-f", "pympipool_agent").returncode != 0)
    gate.open(1)
    (other,) = [call for call in calls if call is not lost]
    assert other.result(timeout=60) == cluster.first
    assert exe.submit(socket.gethostname).result(timeout=60) == cluster.first


def on_one_host_first():
    """Return the command of agents, that of the first launch works on one host only."""
    commands = [["sh", "-c", 'test "$SLURM_PROCID" = 0 && exec "$@"', "sh"]]
    return lambda: [*(commands.pop() if commands else []), *agent_command()]


def test_host_without_agent_is_launched_again(make_executor, cluster, job, gate, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", cluster.run("squeue", "-h", "-j", job, "-o", "%N").strip())
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", 10.0)
    monkeypatch.setattr(slurm_agents, "agent_command", on_one_host_first())
    exe = make_executor(block_allocation=True, resource_dict={"threads_per_core": 8})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert {call.result(timeout=60) for call in calls} == {cluster.first, cluster.second}
    assert "1 of 2 hosts have an agent" in caplog.text


@EITHER_MODE
def test_host_comes_back_after_long_cut_off(make_executor, cluster, gate, block_allocation):
    """Half a minute is longer than agents wait: the calls there are lost, and the host gets another agent."""
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 8})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    cluster.cut_off()
    cut_off_s = time.monotonic()
    behind = [exe.submit(square, i) for i in range(20)]
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert lost.exception().host == cluster.second
    wait_until(lambda: cluster.on_second("pgrep", "-f", "pympipool_agent").returncode != 0)
    gate.open(1)
    (other,) = [call for call in calls if call is not lost]
    assert other.result(timeout=60) == cluster.first
    assert [call.result(timeout=60) for call in behind] == [i * i for i in range(20)]
    time.sleep(max(cut_off_s + 30 - time.monotonic(), 0))
    cluster.connect_again()
    serving = set()
    deadline_s = time.monotonic() + 120
    while serving != {cluster.first, cluster.second}:
        assert time.monotonic() < deadline_s, f"only {serving} serve again"
        serving = {call.result(timeout=60) for call in [exe.submit(take_a_moment) for _ in range(2)]}


def take_a_moment():
    time.sleep(0.2)
    return socket.gethostname()


@MODES
def test_drained_host_serves_its_job(make_executor, cluster, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 8})
    before = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    cluster.run("scontrol", "update", f"NodeName={cluster.second}", "State=DRAIN", "Reason=test")
    try:
        behind = [exe.submit(hold_on_host, gate.path) for _ in range(4)]
        gate.open(6)
        hosts = {cluster.first, cluster.second}
        assert {call.result(timeout=60) for call in before} == hosts
        assert {call.result(timeout=60) for call in behind} <= hosts
    finally:
        cluster.run("scontrol", "update", f"NodeName={cluster.second}", "State=RESUME")


@MODES
@pytest.mark.parametrize("duration_s", [3, 8])  # the kernels notice it after 4 s
def test_short_cut_off_loses_nothing(make_executor, cluster, gate, block_allocation, duration_s):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 8})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    workers = {worker["pid"] for worker in exe.info["workers"]}
    cluster.cut_off()
    gate.open(2)  # a result and the end of a worker are on their way meanwhile
    behind = [exe.submit(square, i) for i in range(20)]
    time.sleep(duration_s)
    cluster.connect_again()
    assert {call.result(timeout=60) for call in calls} == {cluster.first, cluster.second}
    assert [call.result(timeout=60) for call in behind] == [i * i for i in range(20)]
    if block_allocation:
        assert {worker["pid"] for worker in exe.info["workers"]} == workers


def test_killed_worker_is_told_by_its_signal(make_executor):
    exe = make_executor(block_allocation=False)
    error = exe.submit(os.abort).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert error.exit_code == -signal.SIGABRT


MASTER = """
import os, signal, time
from pympipool import Executor
if __name__ == "__main__":
    exe = Executor(backend="slurm", max_cores=16, block_allocation={block_allocation})
    for _ in range(16):
        exe.submit(time.sleep, 600)
    while len(exe.info["workers"]) < 16:
        time.sleep(0.01)
    print("served", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@MODES
def test_nothing_survives_a_killed_master(make_executor, tmp_path, block_allocation):
    with Script(MASTER.format(block_allocation=block_allocation), tmp_path) as script:
        code, stdout, stderr = script.end()
        assert (code, stdout) == (-signal.SIGKILL, "served\n"), stderr
        assert script.survivors() == []


def test_process_per_call_on_two_hosts(make_executor):
    exe = make_executor(block_allocation=False)
    assert len(set(exe.map(pid, range(100)))) > 50  # the hosts have pids of their own
    assert len(sruns()) == 1
