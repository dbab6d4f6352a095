"""A second job whose hosts join the executor of a first one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool import Executor
from support.calls import hold


def of_worker(gate):
    hold(gate)
    return socket.gethostname(), os.environ.get("SLURM_JOB_ID")


@pytest.fixture
def jobs(cluster, second_host, monkeypatch):
    """A job on each host. The script runs in the first one."""
    numbers = [cluster.allocate(host) for host in (cluster.first, second_host)]
    monkeypatch.setenv("SLURM_JOB_ID", numbers[0])
    yield numbers
    cluster.run("scancel", *numbers)


@pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])
def test_second_job_joins_the_first(cluster, jobs, opened, gate, tmp_path, block_allocation):
    exe = Executor(backend="slurm", max_cores=11, block_allocation=block_allocation)
    opened.append(exe)
    exe.write_join_file(tmp_path / "run.json")
    environment = {**os.environ, "SLURM_JOB_ID": jobs[1], "PYTHONPATH": str(Path(pympipool.__file__).parents[1])}
    program = [sys.executable, "-m", "pympipool", "join", str(tmp_path / "run.json"), "--cores", "3"]
    with subprocess.Popen(["srun", "--ntasks-per-node=1", *program], env=environment) as joined:
        calls = [exe.submit(of_worker, gate.path) for _ in range(11)]
        gate.wait_until_begun(11)
        gate.open(11)
        results = sorted(call.result() for call in calls)
        assert results == sorted([(cluster.first, jobs[0])] * 8 + [(cluster.second, jobs[1])] * 3)
        exe.shutdown()
        assert joined.wait(60) == 0
