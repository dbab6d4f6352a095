"""The supervisor of detached calls on this machine: it gives tasks their GPUs, and scripts see if it hangs."""

import contextlib
import os
import resource
import socket
import sqlite3
import time

import pytest

from pympipool.detached import supervisor
from pympipool.detached.local import LocalScheduler, lock_path
from pympipool.detached.records import Records, Submission
from pympipool.detached.spool import Spool
from support.detached_project import Project
from support.processes import marked_processes, still_alive
from support.scripts import communicate
from support.waiting import wait_until

pytestmark = pytest.mark.slow

DEVICES = """
import os, time
from pathlib import Path
def devices(x):
    with open("ran", "a") as file:
        file.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\\n")
    while not Path("gate").exists():
        time.sleep(0.02)
    return os.environ["CUDA_VISIBLE_DEVICES"]
def of_rank():
    from mpi4py import MPI
    return MPI.COMM_WORLD.Get_rank(), os.environ["CUDA_VISIBLE_DEVICES"]
"""


@pytest.fixture
def project(tmp_path):
    """A project whose scripts have four GPUs."""
    made = Project(tmp_path, CUDA_VISIBLE_DEVICES="2,3,5,7")
    (tmp_path / "devices.py").write_text(DEVICES)
    yield made
    made.open_gate()
    assert still_alive(marked_processes(made.mark)) == []


def test_tasks_that_run_have_different_devices(project):
    """The call with three GPUs waits for those of the first; one with one GPU does not pass it, one without does."""
    code = """
from devices import *
exe = executor(max_workers=8)
pair, three, one = (exe.submit(devices, n, resource_dict={"gpus_per_core": n}) for n in (2, 3, 1))
print(exe.submit(square, 2).result(), flush=True)
print(pair.result(), three.result(), one.result())
"""
    with project.start(code) as script:
        assert script.stdout.readline() == "4\n"
        project.wait_for_runs(2)
        assert project.ran() == ["2", "2,3"]
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout.startswith("2,3 2,3,5 "), stderr


@pytest.mark.mpi
def test_each_rank_has_its_own_devices(project):
    code = "from devices import *; exe = executor(); "
    code += "print(exe.submit(of_rank, resource_dict={'cores': 2, 'gpus_per_core': 2}).result())"
    assert project.run(code) == "[(0, '2,3'), (1, '5,7')]\n"


def test_more_devices_than_there_are_is_an_error(project):
    with project.start("executor(gpus_per_worker=5)") as script:
        _, stderr = communicate(script, 60)
    assert "ValueError: gpus_per_worker is 5" in stderr
    assert "this process may use 4 GPUs" in stderr


STOPPED = """
exe = executor(max_workers=1)
first = exe.submit(held, 1)
while not first.running():
    time.sleep(0.02)
print("runs", flush=True)
while not Path("stopped").exists():
    time.sleep(0.02)
from pympipool.detached import local
from pympipool.detached import records_file
local.HUNG_S, records_file.HUNG_LIMIT_S = 0.5, 1.5
second = exe.submit(square, 2)
print(second.exception().words, flush=True)
print(first.result())
"""


def test_a_stopped_supervisor_is_warned_of_then_fails(project):
    with project.start(STOPPED) as script:
        assert script.stdout.readline() == "runs\n"
        (supervisor,) = project.processes("supervisor")
        project.suspend(supervisor)
        try:
            (project.folder / "stopped").touch()
            words = f"the supervisor of detached jobs (process {supervisor.pid}) was stopped, so none of them starts: kill -CONT"
            assert script.stdout.readline().startswith(words)
            project.open_gate()
            stdout, stderr = communicate(script, 120)
        finally:
            supervisor.resume()
    assert stdout == "1\n", "the running task does not need its supervisor"
    assert f"JobWarning: {words}" in stderr
    assert project.run("print(executor().submit(square, 2).result())") == "4\n"
    assert project.ran() == ["1", "2"]


def test_a_supervisor_that_goes_on_shows_that(project):
    """It touches its lock while it only waits for a task."""
    project.run("exe = executor(); exe.submit(held, 1); exe.shutdown(wait=False)")
    project.wait_for_runs(1)
    (lock,) = (project.folder / "cache" / "detached").glob("supervisor-*.lock")
    for _ in range(3):
        before = lock.stat().st_mtime_ns
        wait_until(lambda before=before: lock.stat().st_mtime_ns != before)


def test_a_task_dies_under_a_stopped_supervisor(project):
    code = STOPPED.replace("second = exe.submit(square, 2)", "second = first").replace("print(first.result())", "")
    with project.start(code) as script:
        assert script.stdout.readline() == "runs\n"
        (supervisor,) = project.processes("supervisor")
        (task,) = project.processes("run")
        project.suspend(supervisor)
        try:
            task.kill()
            wait_until(lambda: task.status() == "zombie")
            (project.folder / "stopped").touch()
            stdout, stderr = communicate(script, 120)
        finally:
            supervisor.resume()
    assert stdout.startswith("the supervisor of detached jobs"), stderr


def test_a_supervisor_without_room_is_warned_of(project):
    """It cannot tell that in the records, nor in its log."""
    project.run("exe = executor(max_workers=1); exe.submit(held, 1); exe.shutdown(wait=False)")
    project.wait_for_runs(1)
    (supervisor,) = project.processes("supervisor")
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(supervisor.pid, resource.RLIMIT_FSIZE, (1000, unlimited))
    (project.folder / "cache" / "detached" / "supervisor.log").write_bytes(bytes(1000))
    project.open_gate()
    with project.start("print(executor(max_workers=1).submit(square, 2).result())") as script:
        words = f"JobWarning: the supervisor of detached jobs (process {supervisor.pid} on "
        while words not in (line := script.stderr.readline()):
            assert line, "the script has ended"
        assert "cannot go on: disk I/O error; it tries again" in line
        resource.prlimit(supervisor.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        stdout, stderr = communicate(script, 120)
    assert stdout == "4\n", stderr
    assert project.run("print(executor().submit(held, 1).result())") == "1\n"
    assert project.ran() == ["1", "2"]


def test_exceptions_are_cached_if_wanted(project):
    submit = "exe = executor(); call = exe.submit(fails, 7, resource_dict={'cache_exceptions': True}); "
    for _ in range(2):
        assert project.run(submit + "print(repr(call.exception()))") == "ValueError('no 7')\n"
    assert (
        project.run(submit + "print(call.done(), repr(exe.submit(square, call).exception()))")
        == "True ValueError('no 7')\n"
    )
    assert project.ran() == ["7"]
    assert project.submissions() == []


def test_only_what_the_function_raises_is_cached(project):
    for call, limit_s in (("exits, 3", 60), ("held, 1", 1)):
        submit = f"submit({call}, resource_dict={{'cache_exceptions': True}})"
        code = f"print(type(executor(run_time_max={limit_s}).{submit}.exception()))"
        first, second = project.run(code), project.run(code)
        assert first == second
    assert project.ran() == ["1", "1", "3", "3"]


@pytest.mark.parametrize("content", ["", "0\n", "-1\n", "what?"])
def test_no_command_is_given_for_an_unknown_process(tmp_path, monkeypatch, content):
    """kill -9 0 would end all that the user has started from this shell."""
    (tmp_path / "detached").mkdir()
    scheduler = LocalScheduler(None, str(tmp_path))
    monkeypatch.setattr(scheduler, "_silence_s", lambda _: 1e6)
    path = lock_path(str(tmp_path), scheduler._host)
    with open(path, "w") as file:
        file.write(content)
    problem = scheduler._problem_of(scheduler._host)
    assert "kill" not in problem
    assert f"{path} does not say which process it is" in problem


def test_tasks_are_read_after_changes_only(tmp_path, monkeypatch):
    """There may be 100 000 of them, and the supervisor looks 20 times a second."""
    with contextlib.closing(Records(str(tmp_path), is_shared=False)) as records:
        submission = Submission("0" * 16, "local", socket.gethostname(), "f", time.time(), 1, 1, None, "{}")
        records.claim(submission, [(bytes(20), "")], lambda keys: ())
        records.queue_tasks(submission.id, 1, {"after": [], "cores": 1, "cores_at_once": 0, "gpus": 0})
        looks, tasks = [], records.tasks
        monkeypatch.setattr(records, "tasks", lambda *states: looks.append(1) or tasks(*states))
        made = supervisor.Supervisor(records, str(tmp_path))
        assert made.has_waiting()
        looks.clear()
        assert made.step()
        before = len(looks)
        assert made.step()
        assert len(looks) == before
        with contextlib.closing(Records(str(tmp_path), is_shared=False)) as others:
            others.check_writable()
            assert made.step()
            assert len(looks) == before, "nothing has changed"
            others.cancel_tasks(submission.id, None)
        assert not made.step()
        assert len(looks) == before + 1


@pytest.fixture
def make_task(tmp_path):
    """Make tasks that run a shell script."""
    spool = Spool(str(tmp_path), "0123")
    (tmp_path / "0123" / "logs").mkdir(parents=True)
    (tmp_path / "0123" / "environment.json").write_text("{}")
    made = []

    def make(number, script, limit_s=None):
        spec = {"command": ["/bin/sh", "-c", script], "cores": 1, "limit_s": limit_s}
        made.append(supervisor.Task(spool.submission, number, spec, [], str(tmp_path)))
        return made[-1]

    yield make
    for task in made:
        if task.process.poll() is None:
            task.process.kill()
            task.process.wait()


class FullDisk:
    """Records that cannot be written until there is room."""

    def __init__(self):
        self.has_room = False
        self.noted = []

    def change_task(self, *change):
        if not self.has_room:
            raise sqlite3.OperationalError("database or disk is full")
        self.noted.append(change)


def test_a_full_disk_stops_no_time_limit(tmp_path, make_task, monkeypatch):
    records = FullDisk()
    made = supervisor.Supervisor(records, str(tmp_path))
    ended, late = make_task(0, "exit 3"), make_task(1, "exec sleep 1000", limit_s=0.0)
    made._running = {("0123", 0): ended, ("0123", 1): late}
    os.waitid(os.P_PID, ended.process.pid, os.WEXITED | os.WNOWAIT)
    killpg, sent = os.killpg, []
    monkeypatch.setattr(os, "killpg", lambda pid, number: (sent.append(pid), killpg(pid, number)))

    def look():
        with pytest.raises(sqlite3.Error):
            made._reap()
        return late.process.returncode is not None

    wait_until(look)
    assert sent.count(ended.process.pid) == 1
    records.has_room = True
    made._reap()
    assert made._running == {}
    assert [change[2:] for change in records.noted] == [
        ("FAILED", "the task ended with exit code 3"),
        ("FAILED", "TIMEOUT"),
    ]
