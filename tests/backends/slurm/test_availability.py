"""When SLURM's controller is asked, and when its cached answer is used. Fake programs stand for SLURM's."""

import os
import time

import pytest

from pympipool.backends.registry import choose, make_backend
from pympipool.backends.slurm import availability
from pympipool.errors import WorkerStartError


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Set the exit code of squeue from here on; `calls` returns the programs that were called."""
    (tmp_path / "asked").touch()

    def answer(code):
        for name in ("srun", "scancel", "squeue"):
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/asked\nexit {code}\n")
            program.chmod(0o755)

    answer(0)
    answer.calls = lambda: (tmp_path / "asked").read_text().split()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("SLURM_CONF", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(availability, "_last_answer", None)
    return answer


@pytest.fixture(autouse=True)
def no_flux(monkeypatch):
    monkeypatch.setenv("FLUX_URI", "local:///nowhere")


@pytest.mark.parametrize(("code", "chosen"), [(0, "slurm"), (1, "mpi")])
def test_auto_asks_once_for_many_executors(squeue, code, chosen):
    squeue(code)
    assert [choose("auto").name for _ in range(5)] == [chosen] * 5
    assert squeue.calls() == ["squeue"]


def test_make_backend_uses_the_answer_of_auto(squeue):
    assert make_backend("auto").name == "slurm"
    assert squeue.calls() == ["squeue"]


def test_explicit_backend_ignores_cached_failure(squeue):
    squeue(1)
    assert choose("auto").name == "mpi"
    with pytest.raises(WorkerStartError, match="does not answer"):
        make_backend("slurm")
    squeue(0)
    assert choose("auto").name == "mpi"
    assert make_backend("slurm").name == choose("auto").name == "slurm"
    assert squeue.calls() == ["squeue"] * 3


def test_cached_answer_expires(squeue, monkeypatch):
    squeue(1)
    assert choose("auto").name == "mpi"
    squeue(0)
    later_s = time.monotonic() + availability.CACHE_S
    monkeypatch.setattr(availability, "monotonic", lambda: later_s)
    assert choose("auto").name == "slurm"


@pytest.mark.parametrize("variable", ["SLURM_CONF", "SLURM_JOB_ID"])
def test_other_cluster_or_job_is_asked_again(squeue, monkeypatch, tmp_path, variable):
    squeue(1)
    assert choose("auto").name == "mpi"
    squeue(0)
    monkeypatch.setenv(variable, str(tmp_path))
    assert choose("auto").name == "slurm"
