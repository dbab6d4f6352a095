"""A real SLURM for the tests: of two hosts on one machine where that is possible, else of one.

cluster    the hosts, and what can be done to them; started by the first test that asks, stopped after the last
job        an allocation on both hosts, in whose environment executors are made
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slurm.cluster import Cluster, why_no_cluster

WANTED = "PYMPIPOOL_TEST_SLURM"
"""Variable that asks for these tests: they take many minutes, and install and start a SLURM where they run as root."""


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(180))
            if not os.environ.get(WANTED):
                item.add_marker(pytest.mark.skip(reason=f"not asked for: {WANTED}=1 make test, as root on Debian"))


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    problem = why_no_cluster()
    if problem:
        pytest.skip(problem)
    cluster = Cluster(Path("/tmp") / f"pympipool-slurm-{os.getpid()}")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running_cluster, monkeypatch):
    """The hosts, all up, and nothing left on them afterwards."""
    monkeypatch.setenv("SLURM_CONF", running_cluster.conf)
    running_cluster.repair()
    yield running_cluster
    running_cluster.repair()
    assert running_cluster.wait_until_empty() == ""


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
