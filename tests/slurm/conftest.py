"""Tests with a real SLURM: of two hosts on one machine where that is possible, else of one.

PYMPIPOOL_TEST_SLURM=part    enables them; tests/executor runs with workers on the second host as well
PYMPIPOOL_TEST_SLURM=all     tests/executor runs with workers on either host

cluster    the hosts; started by the first test that needs them, stopped after the last
job        an allocation on both hosts; SLURM_JOB_ID names it
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from pympipool.backends.slurm import job_watch
from support.places import SCHEDULER_TIMEOUT_S
from support.processes import own_processes, still_alive
from support.slurm_cluster import END_S, WANTED
from support.waiting import wait_until


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(SCHEDULER_TIMEOUT_S))
            item.add_marker(pytest.mark.slurm)
            if not os.environ.get(WANTED):
                item.add_marker(pytest.mark.skip(reason="not asked for: make test-slurm, as root on Debian or Ubuntu"))


@pytest.fixture
def cluster(running_cluster, monkeypatch, mark):
    """Start all hosts. Fail if a test leaves a job, step, process or connection of ours on either of them."""
    monkeypatch.setenv("SLURM_CONF", running_cluster.conf)
    monkeypatch.setattr(job_watch, "CLOSING_PAUSE_S", 1)  # every test waits for the end of its script
    running_cluster.repair()
    processes = set(own_processes(mark))
    yield running_cluster
    running_cluster.repair()
    assert running_cluster.wait_until_empty() == ""
    assert still_alive([process for process in own_processes(mark) if process not in processes], END_S) == []
    wait_until(lambda: psutil.Process().net_connections("inet") == [])


@pytest.fixture
def second_host(cluster):
    if cluster.second is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    return cluster.second


@pytest.fixture
def job(cluster, monkeypatch):
    """Allocate the whole cluster."""
    number = cluster.allocate()
    monkeypatch.setenv("SLURM_JOB_ID", number)
    yield number
    cluster.run("scancel", number)
