"""The command that starts agents on all hosts of a job."""

from __future__ import annotations

import subprocess

import pytest

from pympipool.backends.slurm.agents import srun_on_all_hosts


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs into the path that stand for those of SLURM: srun prints what it is called with."""

    def make(squeue):
        for name, script in (("srun", 'for word; do echo "$word"; done'), ("squeue", squeue)):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def run(environ):
    return subprocess.run([*srun_on_all_hosts(environ), "--quiet", "a b"], capture_output=True, text=True, check=False)


def test_known_number_of_hosts_is_not_asked_for(programs):
    programs("echo asked >&2; exit 1")
    done = run({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "--nodes=3\n--quiet\na b\n", "")


def test_unknown_number_of_hosts_is_asked_for(programs):
    programs('[ "$2" = --jobs=7 ] && echo 12')
    done = run({"SLURM_JOB_ID": "7"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "--nodes=12\n--quiet\na b\n", "")


def test_controller_that_does_not_answer_looks_like_srun(programs):
    programs("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    done = run({"SLURM_JOB_ID": "7"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "srun: error: slurm_load_jobs error: Unable to contact slurm controller\n"
