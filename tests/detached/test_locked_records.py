"""A process that was stopped holds the lock of the records: nothing waits for ever, and errors name the process."""

import re
import signal
import sqlite3
import sys

import psutil
import pytest

from pympipool.cli import main
from support.locked_files import stopped_holder
from support.scripts import communicate
from support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock: run it there"),
]

LIMITS = """
from pympipool.detached import local, records_file, watcher
records_file.OPEN_LIMIT_S = records_file.LOCK_LIMIT_S = 0.2
local.HUNG_S = watcher.HUNG_S = 0.5
def until(name):
    while not Path(name).exists():
        time.sleep(0.02)
def runs(call):
    while not call.running():
        time.sleep(0.02)
"""

SHORT = LIMITS + "records_file.HUNG_LIMIT_S = 2.0; local.LocalScheduler._silence_s = lambda *_: 0.0\n"
"""The supervisor may be late by seconds on a busy machine: that is not what keeps calls waiting here."""


def records_of(project):
    """Return the file of the records; it exists."""
    project.run("executor().shutdown()")
    return project.folder / "cache" / "detached" / "jobs.sqlite"


def remedy(holder):
    return rf"jobs.sqlite' is locked by process {holder.pid} \(.*?\), which was stopped: let it go on by kill -CONT {holder.pid}"


def test_calls_that_cannot_be_submitted_fail(project):
    code = SHORT + "with executor() as exe: calls = [exe.submit(square, 2), *map(exe.submit, [square] * 2, (3, 4))]\n"
    code += "print([call.exception().words for call in calls])"
    with stopped_holder(records_of(project)) as holder:
        with project.start(code) as script:
            stdout, stderr = communicate(script, 120)
        assert len(re.findall(remedy(holder), stdout)) == 3, stderr
        assert len(re.findall(f"JobWarning: .*{remedy(holder)}", stderr)) == 1
    assert project.ran() == []
    assert project.run("print(executor().submit(square, 2).result())") == "4\n"


def test_running_calls_end_and_waiting_ones_fail(project):
    """The supervisor cannot note what it does either. The waiting call runs later, and the next script finds its result."""
    submit = "exe = executor(max_workers=1); first = exe.submit(held, 1); second = exe.submit(square, 2); "
    code = SHORT + submit + "runs(first); print('runs', flush=True); print(second.exception().words, flush=True); "
    code += "until('gate'); print(first.result()); print(type(exe.submit(square, 3).exception()).__name__)"
    path = records_of(project)
    with project.start(code) as script:
        assert script.stdout.readline() == "runs\n"
        project.wait_for_runs(1)  # what is noted to run may still be starting
        with stopped_holder(path) as holder:
            assert re.search(remedy(holder), script.stdout.readline())
            project.open_gate()
            stdout, stderr = communicate(script, 120)
        assert stdout == "1\nJobError\n", stderr
    assert project.run(submit + "print(first.result(), second.result())") == "1 4\n"
    assert project.ran() == ["1", "2"]
    assert project.submissions() == []


def test_a_task_dies_while_records_are_locked(project):
    code = (
        SHORT
        + "exe = executor(); call = exe.submit(held, 1); runs(call); print('runs', flush=True); print(call.exception().words)"
    )
    path = records_of(project)
    with project.start(code) as script:
        assert script.stdout.readline() == "runs\n"
        project.wait_for_runs(1)
        with stopped_holder(path) as holder:
            project.processes("run")[0].kill()
            stdout, stderr = communicate(script, 120)
        assert re.search(remedy(holder), stdout), stderr


def test_no_wait_once_the_lock_is_gone(project):
    code = (
        LIMITS + "exe = executor(); call = exe.submit(square, 2); print('submitted', flush=True); print(call.result())"
    )
    with stopped_holder(records_of(project)) as holder, project.start(code) as script:
        assert script.stdout.readline() == "submitted\n"
        while "JobWarning" not in script.stderr.readline():
            pass
        holder.let_go()
        stdout, stderr = communicate(script, 120)
    assert stdout == "4\n", stderr


def test_ctrl_c_ends_waits_for_locked_records(project):
    """The first one leaves the block, which waits until the calls are submitted; the second one ends that."""
    code = (
        LIMITS + "with executor() as exe: call = exe.submit(square, 2); print('submitted', flush=True); call.result()"
    )
    with stopped_holder(records_of(project)), project.start(code) as script:
        assert script.stdout.readline() == "submitted\n"
        while "JobWarning" not in script.stderr.readline():
            pass
        script.send_signal(signal.SIGINT)
        with pytest.raises(AssertionError):
            wait_until(lambda: script.poll() is not None, 2)
        script.send_signal(signal.SIGINT)
        _, stderr = communicate(script, 60)
    assert stderr.count("KeyboardInterrupt") == 2
    assert script.returncode != 0


def test_kill_workers_tells_of_jobs_that_go_on(project):
    code = (
        SHORT
        + "exe = executor(); call = exe.submit(held, 1); runs(call); print('runs', flush=True); until('stopped'); "
    )
    code += "exe.kill_workers(); print(call.cancelled())"
    path = records_of(project)
    with project.start(code) as script:
        assert script.stdout.readline() == "runs\n"
        with stopped_holder(path) as holder:
            (project.folder / "stopped").touch()
            stdout, stderr = communicate(script, 120)
            assert stdout == "True\n"
            assert re.search(f"JobWarning: jobs of cancelled calls go on: .*{remedy(holder)}", stderr)


def test_jobs_are_listed_while_records_are_locked(project, capsys, monkeypatch):
    monkeypatch.setattr("pympipool.detached.records_file.LOCK_LIMIT_S", 0.2)
    project.run("exe = executor(); exe.submit(held, 1); exe.shutdown(wait=False)")
    project.wait_for_runs(1)
    arguments = "-d", str(project.folder / "cache")
    with stopped_holder(project.folder / "cache" / "detached" / "jobs.sqlite") as holder:
        assert main(["jobs", "list", *arguments]) == 1
        out, err = capsys.readouterr()
        assert "held()  1 call: 1 running" in out
        assert re.search(remedy(holder), err)
        assert main(["jobs", "cancel", "--all", *arguments]) == 1
        out, err = capsys.readouterr()
        assert "cancelled" not in out
        assert re.search(remedy(holder), err)
    project.open_gate()


def test_records_that_are_being_made_raise_an_error(project):
    path = records_of(project)
    path.unlink()
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode = WAL")
    made.close()
    code = LIMITS + "\ntry: executor()\nexcept BlockingIOError as error: print(error)"
    with stopped_holder(path) as holder:
        assert re.search(remedy(holder), project.run(code))


STOPS_ITSELF = """
import threading
from signal import SIGSTOP, pthread_kill
from pympipool.detached import local
queue = local.LocalScheduler.submit
def submit(*args):
    while not Path('gate').exists():
        pthread_kill(threading.get_ident(), SIGSTOP)  # this thread, which then goes no step further
    return queue(*args)
local.LocalScheduler.submit = submit
print(executor().submit(square, 2).result())
"""


def test_a_script_is_stopped_while_it_submits(project):
    """Another one that waits for the same call is told which script is stopped."""
    code = SHORT + "call = executor().submit(square, 2); print(call.exception().words)"
    with project.start(STOPS_ITSELF) as first:
        stopped = psutil.Process(first.pid)
        wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED)
        words = project.run(code)
        assert words.startswith("another script submits it, and has done nothing for 2 s: ")
        assert f"process {first.pid} (" in words
        assert f"which was stopped: let it go on by kill -CONT {first.pid}" in words
        assert project.run("print(executor().submit(square, 2).result())") == "4\n", "a failure is told once"
        project.open_gate()
        stopped.resume()
        stdout, stderr = communicate(first, 120)
    assert stdout == "4\n", stderr
