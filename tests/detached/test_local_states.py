"""What is said of the tasks of a workstation, with made-up records."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pympipool.backends.local.job_processes import processes_with
from pympipool.caching.file_waits import FileLockedError
from pympipool.detached import local, records_file
from pympipool.detached.local import LocalScheduler
from pympipool.detached.schedulers import State
from support.waiting import wait_until

GONE = 2**22 + 1
"""No process has this id."""


def locked(*_, **__):
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
        change_task=locked,
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


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc shows the variables of processes: run it on Linux")
def test_a_process_that_is_not_noted_runs(scheduler, monkeypatch):
    """The supervisor was kept from noting it by what has locked the records."""
    scheduler._records.tasks = lambda: [("own", task, "RUNNING", "", None) for task in (0, 1)]
    name, value = local.task_mark("own", 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={name: value}) as process:
        wait_until(lambda: processes_with([f"{name}={value}"]))
        states = scheduler.states(["own"])
        process.communicate(b"\n")
    assert [states["own", task].state for task in (0, 1)] == [State.FAILED, State.RUNNING]


@pytest.mark.parametrize("problem", ["no space left" * 40, "ü" * 400])
def test_solved_problem_leaves_no_text(scheduler, tmp_path, problem):
    lock = local.try_lock(str(tmp_path), "here")
    local.note_state(lock, problem)
    pid, told = scheduler._read_state("here")
    assert (pid, bool(told)) == (os.getpid(), True)
    local.note_state(lock, "")
    assert scheduler._read_state("here") == (os.getpid(), "")
    os.close(lock)
