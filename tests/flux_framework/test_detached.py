"""Detached calls are jobs of flux: a chain, a map, an MPI call; cancelled, failed and lost ones, and those of another instance."""

from __future__ import annotations

import re
import subprocess
import sys

import psutil
import pytest

from pympipool.cli import main
from pympipool.detached.flux_jobs import Job
from support.detached_project import Project
from support.flux_instance import path_for_scripts
from support.processes import marked_processes, still_alive
from support.scripts import communicate
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


def make_project(folder, instance):
    folder.mkdir(exist_ok=True)
    made = Project(
        folder,
        OPTIONS="{'backend': 'flux', 'max_workers': None}",
        FLUX_URI=instance.uri,
        PYTHONPATH=path_for_scripts(),
    )
    (folder / "ranks.py").write_text(RANKS)
    return made


@pytest.fixture
def project(one_broker, tmp_path):
    made = make_project(tmp_path, one_broker)
    yield made
    made.open_gate()
    assert one_broker.wait_until_empty() == []
    assert still_alive(marked_processes(made.mark)) == []


SUBMIT = """
from ranks import *
exe = executor()
first = exe.submit(held, 3)
second = exe.submit(square, first)
third = exe.submit(total, first, second)
several = exe.submit(rank, 5, resource_dict={"cores": 2})
sweep = exe.map(square, range(30))
"""


@pytest.mark.mpi
def test_second_run_attaches_third_finds_results(one_broker, project, submitted):
    project.run(SUBMIT + LEAVE)
    assert len(one_broker.wait_for_jobs("D", 2)) == 2, "two wait for the first"
    jobs = submitted()
    assert len(jobs) == 34
    project.run(SUBMIT + LEAVE)
    with project.start(SUBMIT + "print(third.result(), several.result(), list(sweep)[-3:])") as attached:
        project.open_gate()
        stdout, stderr = communicate(attached, 300)
    assert stdout == "12 [(10, 0), (10, 1)] [729, 784, 841]\n", stderr
    code = SUBMIT + "print(third.done(), several.done(), third.result(), several.result(), len(list(sweep)))"
    assert project.run(code) == "True True 12 [(10, 0), (10, 1)] 30\n"
    assert submitted() == jobs, "a later run has submitted something"
    assert project.ran() == sorted(["3", "3", "total", *map(str, range(30))])
    assert project.submissions() == []


def all_jobs(instance):
    """Return the ids of the detached jobs that the instance has had."""
    lines = instance.run("jobs", "-n", "-a", "-c", "0", "-o", "{id} {name}").splitlines()
    return {line.split()[0] for line in lines if re.search("pympipool-[0-9a-f]{16}$", line)}


@pytest.fixture
def submitted(one_broker):
    """Return the ids of the jobs that were submitted since the test has begun."""
    before = all_jobs(one_broker)
    return lambda: all_jobs(one_broker) - before


CANCELLED = """
exe = executor()
first = exe.submit(held, 1)
second = exe.submit(square, first)
error = {0}.exception()
print(type(error).__name__, error.words, error.function, type(second.exception()).__name__)
"""


def test_a_cancelled_job_ends_its_future_and_dependents(one_broker, project):
    with project.start(CANCELLED.format("first")) as script:
        project.wait_for_runs(1)
        one_broker.run("cancel", *one_broker.wait_for_jobs("R"))
        stdout, stderr = communicate(script, 120)
    assert stdout == "JobError CANCELED (cancel) held JobError\n", stderr
    project.open_gate()
    assert project.run("exe = executor(); print(exe.submit(square, exe.submit(held, 1)).result())") == "1\n"


def test_a_job_that_waits_is_cancelled(one_broker, project):
    with project.start(CANCELLED.format("second")) as script:
        project.wait_for_runs(1)
        one_broker.run("cancel", "--message=not now", *one_broker.wait_for_jobs("D"))
        stdout, stderr = communicate(script, 120)
    assert stdout == "JobError CANCELED (cancel: not now) square JobError\n", stderr


def test_a_future_cancels_one_task_of_a_map(one_broker, project):
    code = """
exe = executor()
calls = exe._engine.submit_map(held, [(x,) for x in range(4)], 1, exe._resources)
while not all(call.running() for call in calls):
    time.sleep(0.05)
print(calls[2].cancel(), calls[2].cancel(force=True), flush=True)
print([call.cancelled() or call.result() for call in calls])
"""
    with project.start(code) as script:
        assert script.stdout.readline() == "False True\n"
        assert len(one_broker.wait_for_jobs("R", 3)) == 3
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout == "[0, 1, True, 3]\n", stderr


def test_failed_call_ends_dependents_without_its_script(one_broker, project):
    submit = "exe = executor(); bad = exe.submit(fails, 7); after = exe.submit(square, bad); "
    project.run(submit + LEAVE)
    project.wait_for_runs(1)
    assert one_broker.wait_until_empty() == [], "a job waits for one that has failed"
    told = "print(repr(bad.exception()), repr(after.exception()))"
    assert project.run(submit + told) == "ValueError('no 7') ValueError('no 7')\n"


def test_a_job_that_dies_has_words(project):
    code = "e = executor().submit(exits, 9).exception(); print(e.words); print(e.job in e.log, e.job[0])"
    assert project.run(code) == "FAILED: it ended with exit code 9\nFalse f\n"


def test_a_time_limit_ends_a_job(project):
    code = "exe = executor(time_limit=1); print(repr(exe.submit(held, 1).exception()))"
    assert re.match(
        r"TimeoutError\('job f\w+ of held\(\) was ended: TIMEOUT \(timeout: resource allocation expired\)",
        project.run(code),
    )


def test_kill_between_submission_and_note_leaves_one_job(project, submitted):
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
    with project.start("exe = executor(); call = exe.submit(held, 1); print(call.result())") as second:
        project.wait_for_runs(1)
        project.open_gate()
        stdout, stderr = communicate(second, 120)
    assert stdout == "1\n", stderr
    assert project.ran() == ["1"]
    assert len(submitted()) == 1


def test_a_kill_amid_a_submission_loses_no_call(project, submitted):
    """Of four jobs, two are submitted. The next script submits the other two."""
    code = """
from pympipool.detached import flux_jobs
submit = flux_jobs.submit
def half(handle, jobspecs, *rest):
    submit(handle, jobspecs[:2], *rest)
    os._exit(9)
flux_jobs.submit = half
exe = executor()
exe.map(square, range(4))
exe.shutdown()
"""
    with project.start(code) as script:
        communicate(script, 60)
    assert script.returncode == 9
    assert project.run("exe = executor(); print(list(exe.map(square, range(4))))") == "[0, 1, 4, 9]\n"
    assert project.ran() == ["0", "1", "2", "3"]
    assert len(submitted()) == 4
    assert project.submissions() == []


def test_a_kill_before_the_submission_leaves_no_job(project, submitted):
    code = """
from pympipool.detached.flux import FluxScheduler
FluxScheduler.submit = lambda *_: os._exit(9)
exe = executor()
call = exe.submit(square, 3)
exe.shutdown()
"""
    with project.start(code) as script:
        communicate(script, 60)
    assert script.returncode == 9
    assert project.run("exe = executor(); print(exe.submit(square, 3).result())") == "9\n"
    assert len(submitted()) == 1
    assert project.submissions() == []


@pytest.mark.mpi
def test_a_rank_that_raises_ends_the_others(project):
    code = "from ranks import *; exe = executor(cores_per_worker=2); print(repr(exe.submit(one_raises, 3).exception()))"
    assert project.run(code) == "ValueError(3)\n"


def test_refused_jobs_fail_with_words_of_flux(project):
    code = """
exe = executor(partition="nowhere")
for call in exe._engine.submit_map(square, [(1,), (2,)], 1, exe._resources):
    print(call.exception())
"""
    assert re.fullmatch("(flux refuses a detached job: .*'nowhere'.*\n){2}", project.run(code))


def test_an_unsatisfiable_job_fails_with_words_of_flux(project):
    code = "exe = executor(cores_per_worker=1, threads_per_core=1000); print(exe.submit(square, 1).exception().words)"
    assert "unsatisfiable" in project.run(code)


def test_a_limit_of_tasks_holds_back_the_others(one_broker, project):
    with project.start("exe = executor(max_workers=2); print(list(exe.map(held, range(5))))") as script:
        assert len(one_broker.wait_for_jobs("D", 3)) == 3
        project.wait_for_runs(2)
        assert project.ran() == ["0", "1"]
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout == "[0, 1, 2, 3, 4]\n", stderr


def test_template_resources_and_folder_reach_the_job(project, monkeypatch):
    template = "#!/bin/bash\nexport OF_TEMPLATE={{cores}}-{{job_name}}\n{{command}}\n"
    (project.folder / "elsewhere").mkdir()
    code = f"""
import os
exe = executor(submission_template={template!r}, threads_per_core=2, gpus_per_worker=1, cwd="elsewhere")
names = "OF_TEMPLATE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PWD"
print([exe.submit(os.getenv, name).result()[:11] for name in names[:3]], exe.submit(os.getcwd).result()[-9:])
"""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert re.fullmatch(r"\['1-pympipool', '[01]', '2'\] elsewhere\n", project.run(code))


def test_calls_of_an_ended_instance_are_submitted_again(make_instance, project, submitted):
    short = make_instance(1)
    first = make_project(project.folder, short)
    first.run("exe = executor(); exe.map(square, range(3)); exe.submit(held, 7); " + LEAVE)
    first.wait_for_runs(4)
    wait_until(lambda: len(short.active_jobs()) == 1)
    short.kill()
    with project.start(
        "exe = executor(); print(list(exe.map(square, range(3))), exe.submit(held, 7).result())"
    ) as again:
        project.wait_for_runs(5)
        project.open_gate()
        stdout, stderr = communicate(again, 120)
    assert stdout == "[0, 1, 4] 7\n", stderr
    assert project.ran() == ["0", "1", "2", "7", "7"]
    assert len(submitted()) == 1


def test_a_script_in_another_instance_waits(make_instance, project, submitted):
    other = make_project(project.folder, make_instance(1))
    other.run("exe = executor(); exe.submit(held, 7); " + LEAVE)
    with project.start("exe = executor(); print(exe.submit(held, 7).result())") as script:
        project.wait_for_runs(1)
        project.open_gate()
        stdout, stderr = communicate(script, 120)
    assert stdout == "7\n", stderr
    assert submitted() == set()


def test_a_broker_that_hangs_is_waited_for(one_broker, project):
    code = """
from pympipool.detached import flux, watcher
flux.ANSWER_TIMEOUT_S = 0.2
exe = executor()
call = exe.submit(held, 7)
while not call.running():
    time.sleep(0.01)
print("runs", flush=True)
print(call.result())
"""
    with project.start(code) as script:
        assert script.stdout.readline() == "runs\n"
        brokers = [psutil.Process(pid) for pid in one_broker.broker_pids()]
        for broker in brokers:
            broker.suspend()
        try:
            project.open_gate()
            wait_until(lambda: list(project.folder.glob("cache/detached/*/ends/0")))
        finally:
            for broker in brokers:
                broker.resume()
        stdout, stderr = communicate(script, 120)
    assert stdout == "7\n", stderr


def test_a_job_with_another_name_is_not_ours(one_broker):
    import flux

    from pympipool.detached.flux_jobs import cancel, look

    number = one_broker.run("submit", "--job-name=theirs", "sleep", "1000").strip().replace("ƒ", "f")
    handle = flux.Flux()
    ours, theirs = Job(number, "pympipool-0"), Job(number, "theirs")
    assert cancel(handle, [ours]) == look(handle, [ours]) == {}
    assert look(handle, [theirs]).keys() == {theirs}
    cancel(handle, [theirs])
    assert one_broker.wait_until_empty() == []


def command(capsys, project, *arguments):
    assert main(["jobs", *arguments, "-d", str(project.folder / "cache")]) == 0
    return capsys.readouterr().out


def test_commands_list_cancel_and_show_jobs(one_broker, project, capsys):
    project.run("exe = executor(); exe.submit(held, 1); exe.map(held, [2, 3]); " + LEAVE)
    project.wait_for_runs(3)
    first, second, last = command(capsys, project, "list").splitlines()
    assert re.search(r"flux f\w+  held\(\)  1 call: 1 running$", first)
    assert re.search(r"flux f\w+,\.\.\.  held\(\)  2 calls: 2 running$", second)
    assert last == "2 submissions"
    wait_until(lambda: "holding 1" in command(capsys, project, "logs", first.split()[0]))
    number = first.split()[4]
    assert command(capsys, project, "cancel", number).endswith("1 call cancelled\n")
    assert command(capsys, project, "cancel", "--all").endswith("2 calls cancelled\n")
    assert one_broker.wait_until_empty() == []
    assert project.submissions() == []


def test_the_first_program_of_an_instance_is_warned(project):
    variables = {name: value for name, value in project.environment().items() if not name.startswith("FLUX_")}
    code = "exe = executor(); print(exe.submit(square, 2).result())"
    command = ["flux", "start", sys.executable, "script.py", code]
    done = subprocess.run(
        command, cwd=project.folder, env=variables, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "4\n", done.stderr
    assert "is the first program of its flux instance" in done.stderr
