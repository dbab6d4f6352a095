"""Detached calls are jobs of SLURM: a chain, a map as one job array, an MPI call; cancelled, failed and lost ones."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from pympipool.detached import watcher
from support.detached_project import Project
from support.processes import marked_processes, still_alive
from support.scripts import communicate
from support.slurm_cluster import LONG
from support.waiting import wait_until

LEAVE = "exe.shutdown(wait=False)"

RANKS = """
from mpi4py import MPI
def rank(x):
    return MPI.COMM_WORLD.allreduce(x), MPI.COMM_WORLD.Get_rank()
def one_raises(x):
    if MPI.COMM_WORLD.Get_rank() == 1:
        raise ValueError(x)
    MPI.COMM_WORLD.Barrier()
"""


@pytest.fixture
def project(cluster, tmp_path):
    made = Project(tmp_path, OPTIONS="{'backend': 'slurm', 'max_workers': None}", SLURM_CONF=cluster.conf)
    (tmp_path / "ranks.py").write_text(RANKS)
    yield made
    made.open_gate()
    assert still_alive(marked_processes(made.mark)) == []


def jobs(cluster, *options):
    """Return the states of jobs that wait or run, by number: an array is one."""
    lines = cluster.run("squeue", "-h", *options, "-o", "%F %T %r").splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


SUBMIT = """
from ranks import *
exe = executor()
first = exe.submit(held, 3)
second = exe.submit(square, first)
third = exe.submit(total, first, second)
several = exe.submit(rank, 5, resource_dict={"cores": 2})
sweep = exe.map(square, range(200))
"""


@pytest.mark.mpi
def test_second_run_attaches_third_finds_results(cluster, project):
    before = jobs(cluster, "--states=all").keys()
    project.run(SUBMIT + LEAVE)
    listed = jobs(cluster, "--states=all")  # some may have ended
    assert len(listed.keys() - before) == 5, "a chain of three, an MPI call, and one array of 200"
    assert sum("Dependency" in " ".join(words) for words in listed.values()) == 2
    project.run(SUBMIT + LEAVE)
    assert not jobs(cluster, "--states=all").keys() - listed.keys(), "the second run has submitted something"
    with project.start(SUBMIT + "print(third.result(), several.result(), list(sweep)[-3:])") as attached:
        project.open_gate()
        stdout, stderr = communicate(attached, 300)
    assert stdout == "12 [(10, 0), (10, 1)] [38809, 39204, 39601]\n", stderr
    assert not jobs(cluster).keys() - listed.keys()
    begin_s = time.monotonic()
    code = SUBMIT + "print(third.done(), several.done(), third.result(), several.result(), len(list(sweep)))"
    assert project.run(code) == "True True 12 [(10, 0), (10, 1)] 200\n"
    assert time.monotonic() - begin_s < 60
    assert project.ran() == sorted(["3", "3", "total", *map(str, range(200))])
    assert project.submissions() == []


def test_a_cancelled_job_ends_its_future_and_dependents(cluster, project):
    code = """
exe = executor()
first = exe.submit(held, 1)
second = exe.submit(square, first)
error = first.exception()
print(type(error).__name__, error.words, error.function, type(second.exception()).__name__)
"""
    with project.start(code) as script:
        project.wait_for_runs(1)
        cluster.run("scancel", min(jobs(cluster), key=int))
        stdout, stderr = communicate(script, 120)
    assert stdout == "JobError CANCELLED held JobError\n", stderr
    project.open_gate()
    assert project.run(
        code.replace("exception()", "result()").replace("error.words, error.function", "error")
    ).startswith("int")


def test_futures_cancel_jobs_that_wait_and_run(cluster, project):
    code = """
exe = executor()
first = exe.submit(held, 1)
second = exe.submit(square, first)
while not first.running():
    time.sleep(0.05)
print(second.cancel(), first.cancel(), flush=True)
while not Path("go").exists():
    time.sleep(0.05)
print(first.cancel(force=True), second.cancelled())
"""
    with project.start(code) as script:
        assert script.stdout.readline() == "True False\n"
        wait_until(lambda: [words[0] for words in jobs(cluster).values()] == ["RUNNING"])
        project.wait_for_runs(1)
        (project.folder / "go").touch()
        stdout, stderr = communicate(script, 120)
    assert stdout == "True True\n", stderr
    assert cluster.wait_until_empty() == ""
    assert project.ran() == ["1"]


def test_one_task_of_an_array_is_cancelled(cluster, project):
    code = """
exe = executor()
calls = [call for call in exe._engine.submit_map(held, [(x,) for x in range(4)], 1, exe._resources)]
print(calls[2].exception().words, flush=True)
print([getattr(call.exception(), "words", None) for call in calls])
"""
    with project.start(code) as script:
        project.wait_for_runs(4)
        cluster.run("scancel", f"{min(jobs(cluster), key=int)}_2")
        assert script.stdout.readline() == "CANCELLED\n"
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout == "[None, None, 'CANCELLED', None]\n", stderr


def test_a_requeued_task_of_an_array_runs_again(cluster, project):
    code = """
exe = executor()
calls = [call for call in exe._engine.submit_map(held, [(x,) for x in range(3)], 1, exe._resources)]
print([call.result() for call in calls])
"""
    with project.start(code) as script:
        project.wait_for_runs(3)
        task = f"{min(jobs(cluster), key=int)}_1"
        cluster.run("scontrol", "requeue", task)
        # Until it is back in the queue, the end of the first run would count as that of the second one.
        wait_until(lambda: "JobState=PENDING" in cluster.run("scontrol", "show", "job", task, check=False), 150)
        time.sleep(1)  # in the same second, its credential would count as that of the first run, which is revoked
        cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now")  # else it waits for minutes
        wait_until(lambda: len(project.ran()) == 4, 150)
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout == "[0, 1, 2]\n", stderr
    assert project.ran() == ["0", "1", "1", "2"]


def test_failed_call_ends_dependents_without_its_script(cluster, project):
    submit = "exe = executor(); bad = exe.submit(fails, 7); after = exe.submit(square, bad); "
    project.run(submit + LEAVE)
    project.wait_for_runs(1)
    assert cluster.wait_until_empty() == "", "a job waits for one that has failed"
    told = "print(repr(bad.exception()), repr(after.exception()))"
    assert project.run(submit + told) == "ValueError('no 7') ValueError('no 7')\n"


@LONG
def test_a_time_limit_ends_a_job(cluster, project):
    cluster.run("scontrol", "update", f"PartitionName={partition(cluster)}", "OverTimeLimit=0")
    code = "exe = executor(time_limit=1); print(repr(exe.submit(held, 1).exception())[:60])"
    with project.start(code) as script:
        project.wait_for_runs(1)
        number = min(jobs(cluster), key=int)
        cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=00:00:01", check=False)
        stdout, stderr = communicate(script, 180)
    assert stdout.startswith(f"TimeoutError('job {number}_0 of held() was ended: TIMEOUT"), stderr + stdout


def partition(cluster):
    return cluster.run("sinfo", "-h", "-o", "%R").split()[0]


def test_kill_between_sbatch_and_note_leaves_one_job(cluster, project):
    """The kill comes between sbatch and the note of its number: the next script finds the job by its name."""
    code = """
from pympipool.detached.records import Records
Records.note_job = lambda *_: os._exit(9)
exe = executor()
call = exe.submit(held, 1)
exe.shutdown()
"""
    with project.start(code) as script:
        communicate(script, 60)
    assert script.returncode == 9
    before = jobs(cluster)
    assert len(before) == 1
    with project.start("exe = executor(); call = exe.submit(held, 1); print(call.result())") as second:
        project.wait_for_runs(1)
        time.sleep(watcher.FIRST_QUESTION_S * 4)  # it asks the controller meanwhile
        assert jobs(cluster).keys() == before.keys()
        project.open_gate()
        stdout, stderr = communicate(second, 120)
    assert stdout == "1\n", stderr
    assert project.ran() == ["1"]


def test_a_kill_before_sbatch_leaves_no_job(cluster, project):
    code = """
from pympipool.detached.slurm import SlurmScheduler
SlurmScheduler.submit = lambda *_: os._exit(9)
exe = executor()
call = exe.submit(square, 3)
exe.shutdown()
"""
    with project.start(code) as script:
        communicate(script, 60)
    assert script.returncode == 9
    assert project.run("exe = executor(); print(exe.submit(square, 3).result())") == "9\n"
    assert project.submissions() == []


@pytest.mark.mpi
def test_a_rank_that_raises_ends_the_others(cluster, project):
    code = "from ranks import *; exe = executor(cores_per_worker=2); print(repr(exe.submit(one_raises, 3).exception()))"
    assert project.run(code) == "ValueError(3)\n"


def test_a_refused_job_fails_with_words_of_sbatch(cluster, project):
    code = "exe = executor(partition='nowhere'); print(exe.submit(square, 1).exception())"
    assert re.match(
        r"SLURM refuses a detached job: sbatch: error: invalid partition specified: nowhere", project.run(code)
    )


def test_a_template_and_options_reach_the_job(cluster, project, monkeypatch):
    template = "#!/bin/bash\n#SBATCH --comment=ours\nexport OF_TEMPLATE={{cores}}-{{job_name}}\n{{command}}\n"
    code = f"""
import os
exe = executor(submission_template={template!r}, threads_per_core=2, max_workers=1, command_line_argument_lst=["--mem=500M"])
names = "OF_TEMPLATE", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE", "OMP_NUM_THREADS"
print([exe.submit(os.getenv, name).result()[:11] for name in names])
"""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert project.run(code) == "['1-pympipool', '2', '500', '2']\n"


def test_a_late_job_finds_nothing_to_do(cluster, project):
    """A submission was taken back, and its job starts all the same."""
    project.run("exe = executor(); exe.submit(square, 1).result()")
    arguments = [str(project.folder / "cache"), "gone", "0"]
    (project.folder / "late.py").write_text(
        f"import sys\nfrom pympipool.detached.run import main\nsys.argv[1:] = {arguments}\nmain()\n"
    )
    command = ["sbatch", "--wait", f"--output={project.folder}/late.log", f"--wrap={sys.executable} late.py"]
    subprocess.run(command, check=False, cwd=project.folder, timeout=60, env=project.environment())
    assert "was taken back, nothing is left to do" in (project.folder / "late.log").read_text()
