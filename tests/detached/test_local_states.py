"""What is said of the tasks of a workstation, with made-up records."""

import os
from types import SimpleNamespace

import pytest

from pympipool.caching.file_waits import FileLockedError
from pympipool.detached import local, records_file
from pympipool.detached.local import LocalScheduler
from pympipool.detached.schedulers import State

GONE = 2**22 + 1
"""No process has this id."""


def locked():
    raise FileLockedError("process 7 holds the lock")


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Records that are locked for too long, of a task of this host and one of node7, which the supervisor there runs."""
    monkeypatch.setattr(LocalScheduler, "_ensure_supervisor", lambda self: None)
    (tmp_path / "detached").mkdir()
    records = SimpleNamespace(
        tasks=lambda: [("own", 0, "RUNNING", "", GONE), ("other", 0, "RUNNING", "", GONE)],
        submissions=lambda: [SimpleNamespace(id="own", host="here"), SimpleNamespace(id="other", host="node7")],
        locked_s=lambda: 2 * records_file.HUNG_LIMIT_S,
        check_writable=locked,
    )
    made = LocalScheduler(records, str(tmp_path))
    made._host = "here"
    lock = local.try_lock(str(tmp_path), "node7")
    yield made
    os.close(lock)


def test_processes_of_other_hosts_are_not_looked_for(scheduler):
    states = scheduler.states(["own", "other"])
    assert states["own", 0].state is State.FAILED
    assert states["other", 0].state is State.RUNNING


@pytest.mark.parametrize("problem", ["no space left" * 40, "ü" * 400])
def test_solved_problem_leaves_no_text(scheduler, tmp_path, problem):
    lock = local.try_lock(str(tmp_path), "here")
    local.note_state(lock, problem)
    pid, told = scheduler._read_state("here")
    assert (pid, bool(told)) == (os.getpid(), True)
    local.note_state(lock, "")
    assert scheduler._read_state("here") == (os.getpid(), "")
    os.close(lock)
