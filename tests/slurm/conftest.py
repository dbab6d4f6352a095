"""A real SLURM for the tests: of two hosts on one machine where that is possible, else of one.

PYMPIPOOL_TEST_SLURM=part    asks for them; the tests of the interface, which are many, only with workers on the second host
PYMPIPOOL_TEST_SLURM=all     for all: the interface with workers on the first host as well

cluster    the hosts, and what can be done to them; started by the first test that asks, stopped after the last
job        an allocation on both hosts, in whose environment executors are made
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from slurm.cluster import END_S, WANTED, Cluster, NoClusterError, folder_of, stop_forgotten_clusters, why_no_cluster
from support.processes import own_processes, still_alive

PLACE = "where_workers_are"
"""Parameter of the tests of the interface. Over TCP alone they need no SLURM."""

ASKED_FOR = {"": {"tcp"}, "part": {"tcp", "second host"}, "all": {"tcp", "slurm", "second host"}}
"""By what the variable says: the places that the tests of the interface run with."""


def pytest_collection_modifyitems(config, items):
    wanted = os.environ.get(WANTED, "")
    if wanted not in ASKED_FOR:
        raise pytest.UsageError(f"{WANTED} is {wanted!r}; it can be {', '.join(filter(None, ASKED_FOR))}")
    left_out = [item for item in items if _place(item) is not None and _place(item) not in ASKED_FOR[wanted]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))
            if _place(item) == "tcp":
                continue
            item.add_marker(pytest.mark.slurm)
            if not wanted:
                item.add_marker(pytest.mark.skip(reason="not asked for: make test-slurm, as root on Debian or Ubuntu"))


def _place(item):
    return item.callspec.params.get(PLACE) if hasattr(item, "callspec") else None


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    problem = why_no_cluster()
    if problem:
        pytest.skip(problem)
    stop_forgotten_clusters()
    cluster = Cluster(folder_of(os.getpid()))
    try:
        cluster.start()
        yield cluster
    except NoClusterError as error:
        pytest.skip(f"SLURM's packages cannot be installed: {error}")
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running_cluster, monkeypatch, mark):
    """The hosts, all up; and no job, step, process, or connection of ours left afterwards, on either of them."""
    monkeypatch.setenv("SLURM_CONF", running_cluster.conf)
    running_cluster.repair()
    processes = set(own_processes(mark))
    yield running_cluster
    running_cluster.repair()
    assert running_cluster.wait_until_empty() == ""
    assert still_alive([process for process in own_processes(mark) if process not in processes], END_S) == []
    assert psutil.Process().net_connections("inet") == []


@pytest.fixture
def second_host(cluster):
    if cluster.second is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    return cluster.second


@pytest.fixture
def job(cluster, monkeypatch):
    """An allocation of all that the cluster has."""
    number = cluster.allocate()
    monkeypatch.setenv("SLURM_JOB_ID", number)
    yield number
    cluster.run("scancel", number)
