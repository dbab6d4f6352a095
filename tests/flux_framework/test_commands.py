"""`pympipool info` and `pympipool check` with a real flux: in an instance, in a full or small one, and outside any."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading

import pytest

from cli.conftest import program  # noqa: F401  a fixture
from cli.test_check import text_of, verdicts
from pympipool.cli.selftest import STEPS
from support.flux_instance import path_for_scripts
from support.processes import marked_processes


@pytest.fixture
def pympipool(program, make_instance):  # noqa: F811  without a flux there is nothing to be found
    """pympipool(word, ...): run the program to its end, with flux's bindings on its path."""
    return functools.partial(program, PYTHONPATH=path_for_scripts(), timeout=170)


@pytest.fixture
def nowhere(one_broker, monkeypatch, tmp_path):
    """Make all instances unreachable, although flux is installed."""
    monkeypatch.setenv("FLUX_URI", f"local://{tmp_path}/nobody")


@contextlib.contextmanager
def all_cores_taken(instance):
    """Run a foreign job that occupies all cores, and return its id."""
    job = instance.run("submit", f"-n{instance.brokers}", f"-c{instance.cores}", "sleep", "1000").strip()
    instance.run("job", "wait-event", job, "start")
    try:
        yield job
    finally:
        instance.run("cancel", job)


def ids(instance):
    return [job.split()[1] for job in instance.active_jobs()]


# ---- check ----


@pytest.mark.mpi
def test_everything_works_in_an_instance(pympipool, instance):
    done = pympipool("check")
    cores = instance.brokers * instance.cores
    assert f"Trying backend 'flux', which is what 'auto' takes, with {cores} cores" in text_of(done)
    assert verdicts(done) == {step.name: "works" for step in STEPS}, done.stdout
    assert "a worker with gpus_per_worker=1 sees one" in text_of(done)
    assert "Everything works" in text_of(done)
    assert (done.returncode, done.stderr) == (0, "")


def test_on_one_core_all_works_but_several_ranks(pympipool, make_instance, monkeypatch):
    small = make_instance(1, 1)
    monkeypatch.setenv("FLUX_URI", small.uri)
    done = pympipool("check", "--backend", "flux")
    assert verdicts(done) == {step.name: "skipped" if step.name == "mpi" else "works" for step in STEPS}, done.stdout
    assert "flux gives each of two ranks a core of its own" in text_of(done)
    assert done.returncode == 0


def test_check_outside_an_instance_names_flux_start(pympipool, nowhere):
    done = pympipool("check", "--backend", "flux")
    assert "Nothing can be tried: backend 'flux' cannot be used: no flux instance can be reached" in text_of(done)
    assert "flux start python script.py" in text_of(done)
    assert (done.returncode, done.stderr) == (1, "")


def test_full_queue_is_reported_and_left_empty(job_each, pympipool, one_broker):
    with all_cores_taken(one_broker) as job:
        done = pympipool("check", "--limit", "8")
        assert "did not end after 8 s, while starting a worker" in text_of(done)
        assert "flux jobs" in text_of(done)
        assert done.returncode == 1
        assert ids(one_broker) == [job]


def test_killed_step_leaves_no_job_in_the_queue(job_each, pympipool, one_broker, mark):
    def kill_the_script():
        one_broker.wait_for_jobs("S")
        for process in marked_processes(mark):
            if "pympipool.cli.selftest" in process.cmdline():
                process.kill()

    with all_cores_taken(one_broker) as job:
        killer = threading.Thread(target=kill_the_script)
        killer.start()
        done = pympipool("check", "serial")
        killer.join()
        assert "ended by itself (exit code -9)" in text_of(done)
        assert done.returncode == 1
        assert ids(one_broker) == [job]


# ---- info ----


def test_info_finds_instance_and_its_resources(pympipool, instance):
    found = json.loads(pympipool("info", "--json").stdout)
    schedulers = found["schedulers"]
    assert schedulers["chosen"] == "flux"
    assert "flux" not in schedulers["skipped_backends"]
    assert schedulers["flux"] == {
        "version": instance.run("getattr", "version").split("-")[0].strip(),
        "uri": instance.uri,
        "hosts": ",".join([os.uname().nodename] * instance.brokers),
        "cores": instance.brokers * instance.cores,
        "gpus": instance.brokers * 2,
    }
    assert not [issue for issue in found["issues"] if "flux" in issue["message"]]
    size = f"with {instance.brokers * instance.cores} cores and {instance.brokers * 2} GPUs on"
    assert f"{schedulers['flux']['version']}, in the instance {instance.uri}, {size}" in text_of(pympipool("info"))


def test_an_instance_that_has_gone_is_wrong(pympipool, nowhere):
    done = pympipool("info")
    assert "this runs in an instance of flux (FLUX_URI is set), but no flux instance can be reached" in text_of(done)
    assert done.returncode == 0


def test_info_outside_an_instance_says_why(pympipool, nowhere, monkeypatch):
    monkeypatch.delenv("FLUX_URI")
    found = json.loads(pympipool("info", "--json").stdout)
    if found["schedulers"]["flux"]["cores"] is not None:
        pytest.skip("this machine has a flux instance of its own, which can be reached from everywhere")
    assert "no flux instance can be reached" in found["schedulers"]["skipped_backends"]["flux"]
    assert found["schedulers"]["flux"]["uri"] is None
    assert "not in an instance" in text_of(pympipool("info"))


def test_info_in_an_instance_agrees_for_scripts(one_broker, tmp_path):
    """As for users, `flux start` creates the instance and sets FLUX_URI."""
    done = subprocess.run(
        ["flux", "start", sys.executable, "-m", "pympipool", "info", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path_for_scripts()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)["schedulers"]
    assert found["chosen"] == "flux"
    assert found["flux"]["uri"] != one_broker.uri
    assert found["flux"]["hosts"] == os.uname().nodename
