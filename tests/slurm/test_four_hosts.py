"""Agents on four hosts. Only `make test-slurm` starts as many."""

from __future__ import annotations

import socket

import pytest

from pympipool import Executor
from pympipool.backends.agent import launches
from pympipool.errors import WorkerDied
from support.calls import hold
from support.waiting import wait_until


@pytest.fixture
def make_executor(cluster, opened, monkeypatch):
    if len(cluster.names) < 4:
        pytest.skip(f"{len(cluster.names)} hosts: make test-slurm starts four")
    job = cluster.allocate(partition="all")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)

    def make(**parameters):
        opened.append(Executor(backend="slurm", max_cores=32, **parameters))
        return opened[-1]

    yield make
    while opened:
        opened.pop().shutdown()
    cluster.run("scancel", job)


def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()


def test_killed_agent_leaves_three_hosts(make_executor, cluster, gate):
    exe = make_executor(block_allocation=True, threads_per_core=8)
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(4)]
    gate.wait_until_begun(4)
    wait_until(lambda: len(exe.info["workers"]) == 4)
    (worker,) = [worker["pid"] for worker in exe.info["workers"] if worker["host"] == "node3"]
    agent = exe._engine.pool.spawner._agents._hosts["node3"].agent_pid
    cluster.on("node3", "kill", "-9", str(agent))
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert lost.exception().host == "node3"
    wait_until(lambda: cluster.on("node3", "kill", "-0", str(worker)).returncode != 0)
    gate.open(3)
    others = {call.result(timeout=60) for call in calls if call is not lost}
    assert others == {*cluster.names} - {"node3"}
    again = [exe.submit(hold_on_host, gate.path) for _ in range(4)]
    gate.wait_until_begun(4)
    gate.open(4)
    assert {call.result(timeout=60) for call in again} == {*cluster.names}
