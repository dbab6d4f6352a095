"""`pympipool info` and `pympipool check` with the real SLURM, in a job and outside of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool

VARIABLES = {"PYTHONPATH": str(Path(pympipool.__file__).parents[1]), "COLUMNS": "1000"}


def program(folder, *words):
    """Runs the program outside of any job."""
    return subprocess.run(
        [sys.executable, "-m", "pympipool", *words],
        cwd=folder,
        env={**os.environ, **VARIABLES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def program_in_job(folder, *words):
    """Runs the program in a job with two cores and a GPU; its exit code, and what it printed."""
    command = " ".join([sys.executable, "-m", "pympipool", *words])
    done = subprocess.run(
        ["sbatch", "--wait", "--ntasks=2", "--nodes=1", "--gres=gpu:1", "--output=out", f"--wrap={command}"],
        cwd=folder,
        env={**os.environ, **VARIABLES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, (folder / "out").read_text()


@pytest.mark.mpi
def test_everything_works_in_a_job(cluster, tmp_path):
    code, printed = program_in_job(tmp_path, "check")
    assert "Trying backend 'slurm', which is what 'auto' takes, with 2 cores" in printed
    assert "a GPU for a worker: a worker with gpus_per_worker=1 sees one" in printed
    assert "Everything works" in printed, printed
    assert code == 0


@pytest.mark.mpi
def test_everything_works_outside_of_a_job(cluster, tmp_path):
    done = program(tmp_path, "check", "--backend", "slurm")
    assert "Everything works" in done.stdout, done.stdout
    assert done.returncode == 0


def test_a_full_queue_is_told_and_nothing_is_left_in_it(cluster, tmp_path):
    everything = cluster.allocate()
    try:
        done = program(tmp_path, "check", "--limit", "5")
        assert "did not end after 5 s, while starting a worker" in done.stdout
        assert "queue" in done.stdout
        assert done.returncode == 1
        assert cluster.run("squeue", "--noheader", "--format=%A").split() == [everything]
    finally:
        cluster.run("scancel", everything)


@pytest.mark.mpi
def test_a_job_and_its_cores_are_found(cluster, tmp_path):
    _, printed = program_in_job(tmp_path, "info", "--json")
    found = json.loads(printed)["schedulers"]
    assert found["chosen"] == "slurm"
    assert found["slurm"]["job"].isdigit()
    assert found["slurm"]["cores"] >= 2
    assert found["slurm"]["mpi_plugin"] in found["slurm"]["mpi_plugins"]


def test_outside_of_a_job_it_says_so(cluster, tmp_path):
    found = json.loads(program(tmp_path, "info", "--json").stdout)
    assert found["schedulers"]["chosen"] == "slurm"
    assert found["schedulers"]["slurm"]["job"] is None
    assert any("no job of it" in problem["what"] for problem in found["problems"])
