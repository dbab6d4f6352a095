"""What is asked of SLURM, with a function in place of its programs."""

import subprocess

import pytest

from pympipool.detached import slurm
from pympipool.errors import WorkerStartError


def test_a_killed_scancel_has_cancelled_nothing(monkeypatch):
    monkeypatch.setattr(slurm, "run", lambda command, **_: subprocess.CompletedProcess(command, -9, "", ""))
    with pytest.raises(WorkerStartError, match=r"job 7 is not cancelled: scancel .*SIGKILL"):
        slurm.SlurmScheduler.cancel(None, "7", None)
