"""Hosts that cannot be used: the error says which, why, and what to do; nothing is started."""

from __future__ import annotations

import re
import sys

import pytest

from pympipool import Executor
from pympipool.backends.hosts import remote_program
from pympipool.errors import WorkerStartError


@pytest.fixture
def make_executor(hosts, opened):
    def make(names=hosts.names, arguments=(), **parameters):
        arguments = [*arguments, *hosts.ssh_arguments]
        opened.append(Executor(hosts=names, command_line_argument_lst=arguments, **parameters))
        return opened[-1]

    return make


def refused(make_executor, *arguments, **parameters):
    with pytest.raises(WorkerStartError) as error:
        make_executor(*arguments, **parameters)
    return str(error.value)


def test_unknown_host_is_told_beside_others(make_executor):
    said = refused(make_executor, ["hosta", "nowhere"])
    assert "ssh does not reach host nowhere: ssh: Could not resolve hostname nowhere" in said
    assert "hosta" not in said


def test_host_that_does_not_answer_is_told(make_executor, hosts):
    hosts.end("hostb")
    said = refused(make_executor, arguments=["-o", "ConnectTimeout=2"])
    assert "ssh does not reach host hostb: ssh: connect to host 10.78.0.3 port 22" in said


def test_refused_login_is_told_with_the_remedy(make_executor):
    said = refused(make_executor, ["hosta"], ["-o", "PubkeyAuthentication=no"])
    assert "Permission denied" in said
    assert "`ssh -o BatchMode=yes hosta true` must work without a question" in said


def test_missing_python_is_told(make_executor, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/elsewhere/python3")
    said = refused(make_executor)
    for name in ("hosta", "hostb"):
        assert re.search(f"Python does not start on host {name}: env: .?/opt/elsewhere/python3.?: No such file", said)


def test_other_python_is_told(make_executor, monkeypatch):
    monkeypatch.setattr(remote_program.platform, "python_version", lambda: "3.99.0")
    assert "and the master has 3.99.0: install the same version there" in refused(make_executor)


def test_other_pympipool_is_told(make_executor, monkeypatch):
    monkeypatch.setattr(remote_program.pympipool, "__version__", "99.0")
    assert "and the master has 99.0: install the same version there" in refused(make_executor)


def test_missing_pympipool_is_told(make_executor, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_program.pympipool, "__file__", str(tmp_path / "pympipool" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert f"pympipool cannot be imported from {tmp_path} on host hosta" in refused(make_executor, ["hosta"])


def test_two_names_of_a_machine_are_told(make_executor, hosts):
    with (hosts.folder / "ssh_config").open("a") as file:
        file.write("\nHost alias\n    HostName 10.78.0.2\n")
    assert "'hosta' and 'alias', which are the same machine" in refused(make_executor, ["hosta", "alias"])


def test_calls_have_the_ssh_options_of_the_executor(make_executor):
    exe = make_executor(max_cores=1)
    with pytest.raises(ValueError, match="the options of ssh are those of the executor"):
        exe.submit(abs, 1, resource_dict={"command_line_argument_lst": ["-v"]})


def test_localhost_only_excludes_other_hosts(make_executor):
    with pytest.raises(ValueError, match="hostname_localhost is True, and host hosta is another one"):
        make_executor(hostname_localhost=True)


def test_number_of_cores_is_what_the_host_has(make_executor, hosts):
    cores = sum(int(hosts.run(name, "nproc")) for name in hosts.names)
    assert make_executor().info["max_workers"] == cores
    assert make_executor(["hosta:3", "hostb"]).info["max_workers"] == 3 + int(hosts.run("hostb", "nproc"))


def test_more_gpus_than_a_host_has_are_refused(make_executor):
    exe = make_executor(block_allocation=False)
    assert exe.submit(abs, -1).result() == 1
    error = exe.submit(abs, -1, resource_dict={"gpus_per_core": 64}).exception()
    assert isinstance(error, WorkerStartError)
    assert "a worker needs 1 cores and 64 GPUs of one host, and no host has as many" in str(error)
