"""The supervisor of detached calls on this machine: it gives tasks their GPUs, and scripts see if it hangs."""

import pytest

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
local.HUNG_S, local.HUNG_LIMIT_S = 0.5, 1.5
second = exe.submit(square, 2)
print(second.exception().words, flush=True)
print(first.result())
"""


def test_a_stopped_supervisor_is_warned_of_then_fails(project):
    with project.start(STOPPED) as script:
        assert script.stdout.readline() == "runs\n"
        (supervisor,) = project.processes("supervisor")
        supervisor.suspend()
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
        supervisor.suspend()
        try:
            task.kill()
            wait_until(lambda: task.status() == "zombie")
            (project.folder / "stopped").touch()
            stdout, stderr = communicate(script, 120)
        finally:
            supervisor.resume()
    assert stdout.startswith("the supervisor of detached jobs"), stderr


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
    for call in ("exits, 3", "held, 1"):
        code = f"print(type(executor(run_time_max=0.5).submit({call}, resource_dict={{'cache_exceptions': True}}).exception()))"
        first, second = project.run(code), project.run(code)
        assert first == second
    assert project.ran() == ["1", "1", "3", "3"]
