"""`pympipool info` and `pympipool check` with the real SLURM, in a job and outside of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from support.slurm_cluster import LONG

VARIABLES = {"PYTHONPATH": str(Path(pympipool.__file__).parents[1]), "COLUMNS": "1000"}


def program(folder, *arguments):
    """Run the program outside any job."""
    return subprocess.run(
        [sys.executable, "-m", "pympipool", *arguments],
        cwd=folder,
        env={**os.environ, **VARIABLES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


ONE_HOST = ("--ntasks=2", "--nodes=1", "--gres=gpu:1")
BOTH_HOSTS = ("--ntasks=16", "--nodes=2")


def program_in_job(folder, *arguments, job=ONE_HOST):
    """Run the program in a job, and return its exit code and output."""
    command = " ".join([sys.executable, "-m", "pympipool", *arguments])
    done = subprocess.run(
        ["sbatch", "--wait", *job, "--output=out", f"--wrap={command}"],
        cwd=folder,
        env={**os.environ, **VARIABLES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, (folder / "out").read_text()


@LONG
@pytest.mark.mpi
def test_everything_works_in_a_job(cluster, tmp_path):
    code, printed = program_in_job(tmp_path, "check")
    assert "Trying backend 'slurm', which is what 'auto' takes, with 2 cores" in printed
    assert "a GPU for a worker: a worker with gpus_per_worker=1 sees one" in printed
    assert "Everything works" in printed, printed
    assert code == 0


@pytest.mark.mpi
def test_everything_works_in_a_job_of_two_hosts(cluster, second_host, tmp_path):
    code, printed = program_in_job(tmp_path, "check", "--backend", "slurm", job=BOTH_HOSTS)
    hosts = ", ".join(sorted([cluster.first, second_host]))
    assert "Trying backend 'slurm' with 16 cores" in printed
    assert f"16 workers at a time on {hosts}," in printed
    assert f"allreduce over 2 ranks on {hosts}," in printed
    assert "Everything works" in printed, printed
    assert code == 0


def test_a_controller_that_does_not_answer_is_told(cluster, tmp_path, monkeypatch):
    text = Path(cluster.conf).read_text().replace("SlurmctldPort=6817", "SlurmctldPort=6816")
    assert "SlurmctldPort=6816" in text
    (tmp_path / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    done = program(tmp_path, "check", "--backend", "slurm", "mpi")
    assert "SLURM's controller does not answer" in done.stdout
    assert "run the script where `sinfo` works" in done.stdout
    assert done.returncode == 1


@LONG
@pytest.mark.mpi
def test_everything_works_outside_of_a_job(cluster, tmp_path):
    done = program(tmp_path, "check", "--backend", "slurm")
    assert "Everything works" in done.stdout, done.stdout
    assert done.returncode == 0


def test_full_queue_is_reported_and_left_empty(cluster, tmp_path):
    everything = cluster.allocate()
    try:
        done = program(tmp_path, "check", "--limit", "8")
        assert "did not end after 8 s, while starting a worker" in done.stdout
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
    assert any("no job of it" in issue["message"] for issue in found["issues"])
