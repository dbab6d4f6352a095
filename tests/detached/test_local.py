"""Calls that outlive their script, under a supervisor on this machine."""

import json
import os
import signal
import sqlite3
import time

import pytest

from support.processes import is_alive, still_alive
from support.scripts import communicate
from support.waiting import wait_until

pytestmark = pytest.mark.slow

LEAVE = "exe.shutdown(wait=False)"


def test_a_call_outlives_its_script_and_runs_once(project):
    submit = "exe = executor(); calls = [exe.submit(held, x) for x in range(3)]; "
    project.run(submit + LEAVE)
    project.wait_for_runs(3)
    with project.start(submit + "print(sum(call.running() for call in calls), [c.result() for c in calls])") as second:
        project.open_gate()
        stdout, stderr = communicate(second, 120)
    assert stdout.endswith("[0, 1, 2]\n"), stderr
    third = project.run(submit + "print([c.done() for c in calls], [c.result() for c in calls])")
    assert third == "[True, True, True] [0, 1, 2]\n"
    assert project.ran() == ["0", "1", "2"]
    assert project.submissions() == []


def test_calls_get_results_of_others_without_their_script(project):
    submit = (
        "exe = executor(); a = exe.submit(held, 2); b = exe.submit(square, a); d = exe.submit(both, b);"
        " c = exe.submit(total, a, b, get_item_from_future(get_item_from_future(d, 'y'), 1)); "
    )
    project.run(submit + LEAVE)
    project.wait_for_runs(1)
    project.open_gate()
    assert project.run(submit + "print(a.result(), b.result(), c.result())") == "2 4 11\n"
    assert project.ran() == ["2", "2", "total"]
    assert project.run(submit + "print(a.done(), b.done(), c.done(), c.result())") == "True True True 11\n"


def test_a_map_is_one_submission_of_tasks(project):
    submit = "exe = executor(); results = exe.map(held, range(10), chunksize=4); "
    project.run(submit + LEAVE)
    assert len(project.submissions()) == 1
    with sqlite3.connect(project.folder / "cache" / "detached" / "jobs.sqlite") as records:
        assert records.execute("SELECT tasks, chunk FROM submissions").fetchall() == [(3, 4)]
        assert records.execute("SELECT count(*) FROM tasks").fetchall() == [(3,)]
    records.close()
    project.open_gate()
    assert project.run(submit + "print(list(results))") == f"{list(range(10))}\n"
    assert len(project.ran()) == 10


def test_only_what_is_missing_is_submitted(project):
    project.run("exe = executor(); print(list(exe.map(square, range(3))))")
    code = "exe = executor(); print(list(exe.map(square, range(5), unordered=True)).sort())"
    project.run(code)
    assert project.ran() == ["0", "1", "2", "3", "4"]


def test_two_scripts_at_once_submit_each_call_once(project):
    code = "exe = executor(); calls = list(exe.map(square, range(40), chunksize=5)); print(calls == [x * x for x in range(40)])"
    scripts = [project.start(code) for _ in range(3)]
    for script in scripts:
        stdout, stderr = communicate(script, 120)
        assert stdout == "True\n", stderr
    assert project.ran() == sorted(map(str, range(40)))


def test_results_have_classes_of_the_later_script(project):
    submit = "exe = executor(); state = exe.submit(make_state, 3); x = exe.submit(x_of, state); "
    project.run(submit + LEAVE)
    for _ in range(2):
        assert project.run(submit + "print(isinstance(state.result(), State), x.result())") == "True 3\n"


def test_a_failure_is_told_once_even_later(project):
    submit = "exe = executor(); bad = exe.submit(fails, 7); after = exe.submit(square, bad); "
    told = "print(repr(bad.exception()), repr(after.exception()), after.exception().__cause__ is not None)"
    project.run(submit + LEAVE)
    project.wait_for_runs(1)
    project.run("time.sleep(0.5)")
    for _ in range(2):
        assert project.run(submit + told) == "ValueError('no 7') ValueError('no 7') True\n"
    assert project.ran() == ["7", "7"], "told to the second script, and run again for the third"
    assert "about to fail" in project.log()


def test_a_killed_job_ends_its_future_with_words(project):
    code = """
exe = executor()
call = exe.submit(held, 1)
after = exe.submit(square, call)
error = call.exception()
print(type(error).__name__, error.words, error.last_lines)
print(type(after.exception()).__name__)
"""
    with project.start(code) as script:
        project.wait_for_runs(1)
        project.processes("run")[0].kill()
        stdout, stderr = communicate(script, 120)
    assert stdout == "JobError the task died of SIGKILL ('holding 1',)\nJobError\n", stderr


def test_a_job_without_a_result_is_an_error(project):
    stdout = project.run(
        "exe = executor(); print(exe.submit(exits, 0).exception().words, exe.submit(exits, 5).exception().words)"
    )
    assert stdout == "the task ended with exit code 0 the task ended with exit code 5\n"


def test_waiting_jobs_survive_a_killed_supervisor(project):
    code = """
exe = executor(max_workers=1)
first, second = exe.submit(held, 1), exe.submit(square, 9)
print(first.exception().words)
print(second.result())
"""
    with project.start(code) as script:
        project.wait_for_runs(1)
        project.processes("supervisor")[0].kill()
        stdout, stderr = communicate(script, 120)
    assert stdout == "the supervisor of the detached jobs was killed, and this task with it\n81\n", stderr


def test_tasks_end_with_a_killed_supervisor(project):
    project.run("exe = executor(); call = exe.submit(held, 1); " + LEAVE)
    project.wait_for_runs(1)
    tasks = project.processes("run")
    project.processes("supervisor")[0].kill()
    assert len(tasks) == 1
    assert still_alive(tasks) == []


def test_next_script_submits_what_a_kill_left(project):
    code = """
from pympipool.detached.local import LocalScheduler
LocalScheduler.submit = lambda *_: os._exit(9)
exe = executor()
calls = [exe.submit(square, x) for x in range(3)]
exe.shutdown()
"""
    with project.start(code) as script:
        communicate(script, 60)
    assert script.returncode == 9
    assert len(project.submissions()) == 1
    assert project.run("exe = executor(); print([exe.submit(square, x).result() for x in range(3)])") == "[0, 1, 4]\n"
    assert project.ran() == ["0", "1", "2"]
    assert project.submissions() == []


def test_calls_can_be_cancelled(project):
    code = """
exe = executor(max_workers=1)
first, second, third = [exe.submit(held, x) for x in range(3)]
while not first.running():
    time.sleep(0.02)
print(first.cancel(), second.cancel(), first.cancel(force=True), first.cancelled(), second.cancelled())
Path("gate").touch()
print(third.result())
"""
    assert project.run(code) == "False True True True True\n2\n"
    assert "1" not in project.ran()


def test_kill_workers_cancels_the_jobs(project):
    code = """
exe = executor(max_workers=1)
calls = [exe.submit(held, x) for x in range(3)]
while not calls[0].running():
    time.sleep(0.02)
exe.kill_workers()
print([call.cancelled() for call in calls])
"""
    assert project.run(code) == "[True, True, True]\n"
    assert project.ran() in ([], ["0"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_jobs_survive_signals_to_their_script(project, number):
    code = "\nwith executor() as exe:\n    call = exe.submit(held, 1)\n    print('waiting', call.result())"
    with project.start(code) as script:
        project.wait_for_runs(1)
        script.send_signal(number)
        communicate(script, 60)
    assert script.returncode != 0
    project.open_gate()
    assert project.run(code) == "waiting 1\n"
    assert project.ran() == ["1"]


def test_run_time_max_ends_a_call(project):
    code = "exe = executor(run_time_max=0.5); print(repr(exe.submit(held, 1).exception()))"
    assert project.run(code) == "TimeoutError('held() took longer than run_time_max=0.5 s; it was ended')\n"


def test_processes_of_a_call_end_with_its_job(project):
    start = "exe = executor(); exe.submit(starts, 1).result()"
    (project.folder / "helper.py").write_text(
        "import subprocess\ndef starts(x):\n    for session in (False, True):\n"
        "        subprocess.Popen(['sleep', '1000'], start_new_session=session)\n"
    )
    project.run("from helper import starts; " + start)


def test_a_directory_that_others_can_write_is_refused(project):
    code = "exe = executor(); call = exe.submit(held, 1); exe.shutdown(wait=False)"
    project.run("exe = executor(); exe.submit(square, 0).result()")
    os.chmod(project.folder / "cache" / "detached", 0o777)
    with project.start(code) as script:
        _, stderr = communicate(script, 60)
    assert "PermissionError: other users can write" in stderr
    os.chmod(project.folder / "cache" / "detached", 0o700)


def test_a_job_refuses_calls_that_others_can_write(project):
    code = "exe = executor(max_workers=1); calls = [exe.submit(held, x) for x in range(2)]; "
    with project.start(code + "print(calls[1].exception().last_lines[-1][:60])") as script:
        project.wait_for_runs(1)
        os.chmod(project.folder / "cache", 0o777)
        project.open_gate()
        stdout, stderr = communicate(script, 60)
    assert stdout.startswith("PermissionError: other users can write to"), stderr


def test_files_are_private(project):
    project.run("exe = executor(); call = exe.submit(held, 1); " + LEAVE)
    project.wait_for_runs(1)  # from then on files neither come nor go
    for path in (project.folder / "cache").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    common = json.loads((project.submissions()[0] / "job.json").read_text())
    assert common["function"] == "held"


WRONG = {
    "Executor(detached=True)": "needs a cache_directory",
    "executor(backend='mpi')": "it can be 'auto', 'slurm', 'flux', 'local'",
    "executor(block_allocation=True)": "use chunksize of map",
    "executor(initializer=print)": "do what it does in the function",
    "executor(retries=2)": "run the script again",
    "executor(partition='debug')": "backend 'local' takes none",
    "executor(gpus_per_worker=1)": "this process may use 0 GPUs",
    "executor(restart_limit=1)": "run the script again",
    "executor(submission_template='{{command}}')": "submits no scripts",
    "executor().submit(x_of, open('script.py'))": "its result may depend on",
    "executor().submit(x_of, 1, resource_dict={'cache': False})": "leave it out",
    "executor().map(x_of, [1], cache=False)": "leave it out",
    "executor().map(x_of, [1], buffersize=1)": "one job array",
    "executor().submit(x_of, Executor.share([1]))": "shared data",
    "executor().submit(x_of, Executor(max_workers=1).submit(abs, 1))": "an executor without a cache",
}


@pytest.mark.parametrize("code", WRONG, ids=str)
def test_what_cannot_be_detached_raises_at_once(project, code):
    with project.start(code) as script:
        _, stderr = communicate(script, 60)
    assert script.returncode == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: "), stderr
    assert WRONG[code] in last


RANKS = """
import os
from mpi4py import MPI
def rank(x):
    return MPI.COMM_WORLD.allreduce(x), MPI.COMM_WORLD.Get_rank()
def one_raises(x):
    if MPI.COMM_WORLD.Get_rank() == 1:
        raise ValueError(x)
    MPI.COMM_WORLD.Barrier()
def waits(x):
    with open(f"pid{MPI.COMM_WORLD.Get_rank()}", "w") as file:
        file.write(str(os.getpid()))
    MPI.COMM_WORLD.Recv(bytearray(1))
"""


@pytest.mark.mpi
def test_ranks_return_a_list(project):
    (project.folder / "ranks.py").write_text(RANKS)
    code = "from ranks import *; exe = executor(cores_per_worker=2, max_workers=2); "
    assert project.run(code + "print(exe.submit(rank, 3).result())") == "[(6, 0), (6, 1)]\n"
    assert project.run(code + "print(repr(exe.submit(one_raises, 3).exception()))") == "ValueError(3)\n"
    with project.start(code + "print(exe.submit(waits, 3).exception().words)") as script:
        deadline_s = time.monotonic() + 60
        while len(pids := [path.read_text() for path in project.folder.glob("pid*")]) < 2 or not all(pids):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        project.processes("supervisor")[0].kill()
        stdout, stderr = communicate(script, 120)
    assert stdout.startswith("the supervisor of the detached jobs was killed"), stderr
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids))


def test_a_fork_that_comes_back_is_ended(project):
    code = "exe = executor(); print(list(exe.map(forks_back, range(2), chunksize=2)))"
    assert project.run(code) == "['parent', 'parent']\n"
    assert project.ran() == ["0", "1"]


def test_a_map_shows_its_progress(project):
    pytest.importorskip("tqdm.auto", reason="pip install tqdm")
    code = "exe = executor(); print(list(exe.map(square, range(3), progress='squares')))"
    with project.start(code) as script:
        stdout, stderr = communicate(script, 120)
    assert stdout == "[0, 1, 4]\n"
    assert "squares: 100%" in stderr
    assert "3/3" in stderr
