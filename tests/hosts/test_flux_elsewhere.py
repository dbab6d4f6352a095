"""Detached calls of a flux instance on another host, which is reached by ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys

import pytest

from pympipool.cli import main
from support.detached_project import Project
from support.flux_instance import path_for_scripts
from support.ssh_hosts import NAMES
from support.waiting import wait_until

HOST = NAMES[0]
INSTANCE = 'echo "$FLUX_URI" > {folder}/uri.new && mv {folder}/uri.new {folder}/uri && sleep 600'


@pytest.fixture
def instance(running_one_broker, monkeypatch):
    """An instance on this host."""
    monkeypatch.setenv("FLUX_URI", running_one_broker.uri)
    yield running_one_broker
    assert running_one_broker.wait_until_empty() == []


@pytest.fixture
def project(instance, hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("FLUX_SSH", str(hosts.folder / "ssh"))
    variables = {"FLUX_URI": instance.uri, "PYTHONPATH": path_for_scripts()}
    return Project(tmp_path, OPTIONS="{'backend': 'flux', 'max_workers': None}", **variables)


@pytest.fixture
def instance_there(project, hosts, tmp_path):
    """Start an instance on another host. Return a function that ends it, and its URI there."""
    first = shlex.quote(INSTANCE.format(folder=tmp_path))
    hosts.run(HOST, "setsid", "sh", "-c", f"flux start sh -c {first} >{tmp_path}/log 2>&1 &")
    wait_until((tmp_path / "uri").exists)

    def end():
        for process in hosts.processes(HOST):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not hosts.left())

    yield end, (tmp_path / "uri").read_text().strip()
    end()


LEAVE = "exe = executor(); exe.submit(held, 7); exe.shutdown(wait=False)"
ATTACH = "exe = executor(); print(exe.submit(held, 7).result())"


def submit_there(hosts, project, uri):
    """Run a script on the other host, in its instance, and wait until its call runs."""
    variables = {**project.environment(), "FLUX_URI": uri}
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "script.py", LEAVE]
    hosts.run(HOST, "sh", "-c", f"cd {project.folder} && exec {shlex.join(words)}")
    project.wait_for_runs(1)


def test_jobs_of_another_host_are_asked_by_ssh(hosts, project, instance_there, capsys):
    end_instance, uri = instance_there
    submit_there(hosts, project, uri)

    def jobs(*arguments):
        assert main(["jobs", *arguments, "-d", str(project.folder / "cache")]) == 0
        return capsys.readouterr().out

    first = jobs("list").splitlines()[0]
    assert first.endswith("1 call: 1 running")
    with project.start(ATTACH) as attached:
        end_instance()  # the script submits the call again, to its own instance
        project.wait_for_runs(2)
        project.open_gate()
        stdout, stderr = attached.communicate(timeout=120)
    assert stdout == "7\n", stderr


def test_job_of_another_host_is_cancelled_by_ssh(hosts, project, instance_there, capsys):
    _, uri = instance_there
    submit_there(hosts, project, uri)
    assert main(["jobs", "cancel", "--all", "-d", str(project.folder / "cache")]) == 0
    assert capsys.readouterr().out.endswith("1 call cancelled\n")
    assert hosts.run(HOST, "env", f"FLUX_URI={uri}", "flux", "jobs", "-n", check=False) == ""
