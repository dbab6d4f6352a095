"""After any kill, calls end with an error, workers are replaced, and neither jobs nor processes are left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import pid, square
from support.flux_instance import path_for_scripts
from support.scripts import Script

pytestmark = pytest.mark.usefixtures("job_each")


@pytest.fixture
def make_executor(instance, opened):
    def make(**parameters):
        opened.append(Executor(**{"max_cores": 1, "backend": "flux", "block_allocation": True, **parameters}))
        return opened[-1]

    return make


def begin(exe, function, *arguments):
    """Submit a call and wait until it runs."""
    exe.submit(pid).result()
    call = exe.submit(function, *arguments)
    while not call.running():
        time.sleep(0.001)
    return call


def job_of(exe):
    return exe.submit(os.getenv, "FLUX_JOB_ID").result()


def cancel_job(instance, job, _worker):
    instance.run("cancel", job)


def signal_job(instance, job, _worker):
    instance.run("job", "kill", "-s", "SIGKILL", job)


def kill_worker(_instance, _job, worker):
    worker.kill()


def kill_shell(_instance, _job, worker):
    worker.parent().kill()


@pytest.mark.parametrize("kill", [cancel_job, signal_job, kill_worker, kill_shell])
def test_call_fails_and_later_calls_run(make_executor, instance, kill):
    exe = make_executor()
    job = job_of(exe)
    call = begin(exe, time.sleep, 100)
    worker = psutil.Process(exe.info["workers"][0]["pid"])
    kill(instance, job, worker)
    error = call.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    if kill is cancel_job:
        assert "cancel" in str(error)
    assert exe.submit(square, 3).result() == 9
    worker.wait(60)


MASTER = """
import os, sys, time
sys.path.insert(0, {tests!r})
import flux.job
from pympipool import Executor

flux_exe = flux.job.FluxExecutor() if {given} else None
with Executor(max_cores={cores}, threads_per_core={threads}, backend="flux", executor=flux_exe, block_allocation={block}) as exe:
    calls = [exe.submit(time.sleep, 100) for _ in range(3)]
    while not calls[0].running():
        time.sleep(0.01)
    print("running", flush=True)
    time.sleep(100)
"""


def master(**parameters):
    values = {"tests": str(Path(__file__).parents[1]), "cores": 3, "threads": 1, "given": False, "block": True}
    return MASTER.format(**{**values, **parameters})


def script_in(instance, source, folder, **options):
    variables = {"FLUX_URI": instance.uri, "PYTHONPATH": path_for_scripts()}
    return Script(source, folder, variables=variables, **options)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("block", [True, False], ids=["block_allocation", "single"])
@pytest.mark.parametrize("given", [True, False], ids=["FluxExecutor", "own"])
def test_no_job_survives_its_master(instance, tmp_path, number, block, given):
    with script_in(instance, master(block=block, given=given), tmp_path) as script:
        script.wait_for_line("running")
        script.process.send_signal(number)
        assert script.survivors() == []
    assert instance.active_jobs() == []


@pytest.mark.parametrize("whole_group", [True, False])
def test_queued_jobs_end_with_the_master(one_broker, tmp_path, whole_group):
    """The first call occupies all cores, and a foreign job takes the cores that it frees."""
    source = master(threads=one_broker.cores, cores=3 * one_broker.cores)
    with script_in(one_broker, source, tmp_path, group=True) as script:
        script.wait_for_line("running")
        while len(one_broker.active_jobs()) < 3:
            time.sleep(0.01)
        other = one_broker.run("submit", "-n1", f"-c{one_broker.cores}", "--urgency=31", "sleep", "100").strip()
        try:
            if whole_group:
                os.killpg(script.process.pid, signal.SIGKILL)
            else:
                script.process.kill()
            assert script.survivors() == []
            assert [job.split()[1] for job in one_broker.active_jobs()] == [other]
        finally:
            one_broker.run("cancel", other)


@pytest.mark.parametrize("block", [True, False], ids=["block_allocation", "single"])
def test_ctrl_c_ends_the_jobs(instance, tmp_path, block):
    with script_in(instance, master(block=block), tmp_path) as script:
        script.wait_for_line("running")
        script.process.send_signal(signal.SIGINT)
        assert script.end()[0] != 0
        assert script.survivors() == []
    assert instance.active_jobs() == []


def test_a_forked_child_does_not_keep_jobs_alive(one_broker, tmp_path):
    source = master().replace(
        '    print("running"', '    if os.fork() == 0:\n        time.sleep(100)\n    print("running"'
    )
    with script_in(one_broker, source, tmp_path) as script:
        script.wait_for_line("running")
        script.process.kill()
        assert one_broker.wait_until_empty() == []


def test_without_its_instance_an_executor_fails_its_calls(make_instance, monkeypatch, opened):
    doomed = make_instance(1)
    monkeypatch.setenv("FLUX_URI", doomed.uri)
    opened.append(Executor(max_cores=1, backend="flux", block_allocation=True))
    call = begin(opened[0], time.sleep, 100)
    doomed.kill()
    assert isinstance(call.exception(timeout=60), WorkerDied)
    with pytest.raises(WorkerStartError, match="flux instance is gone"):
        opened[0].submit(square, 2).result(timeout=60)
