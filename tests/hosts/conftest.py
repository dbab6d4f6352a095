"""Fixtures for tests on hosts that are reached by ssh or mpiexec.

hosts          two hosts with an sshd each, whole before each test and without processes of ours after it
make_executor  makes executors on both hosts, in both ways
"""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.agent import launches
from support.ssh_hosts import SLOTS
from support.waiting import wait_until

TIMEOUT_S = 180


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S), append=True)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def hosts(running_hosts, monkeypatch):
    """Repair the hosts before a test. Fail if it leaves a process of ours, or a connection."""
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)
    running_hosts.repair()
    yield running_hosts
    running_hosts.repair()
    wait_until(lambda: not running_hosts.left())
    assert psutil.Process().net_connections("inet") == []


@pytest.fixture(params=["ssh", "mpiexec"])
def way(request, hosts, monkeypatch, tmp_path):
    """Return the parameters of executors on both hosts: by ssh, or by mpiexec as in a job of PBS."""
    if request.param == "ssh":
        return {"hosts": hosts.with_slots, "command_line_argument_lst": hosts.ssh_arguments}
    return as_in_a_job_of_pbs(hosts, monkeypatch, tmp_path)


def as_in_a_job_of_pbs(hosts, monkeypatch, tmp_path):
    """Set the environment of a job of PBS on both hosts, whose mpiexec uses ssh. There is no PBS."""
    node_file = tmp_path / "nodes"
    node_file.write_text("".join(f"{name}\n" * SLOTS for name in hosts.names))
    monkeypatch.setenv("PBS_NODEFILE", str(node_file))
    monkeypatch.delenv("NCPUS", raising=False)
    monkeypatch.setenv("HYDRA_LAUNCHER_EXEC", str(hosts.folder / "ssh"))
    return {"backend": "pbs"}


@pytest.fixture
def make_executor(way, opened):
    def make(**parameters):
        opened.append(Executor(**{**way, **parameters}))
        return opened[-1]

    return make
