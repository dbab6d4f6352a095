"""Hosts that join an executor later. Here they are all this machine: each `pympipool join` is one more."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.base import SchedulerBackend
from pympipool.errors import WorkerDied
from support.calls import hold, square
from support.waiting import wait_until

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])
END_S = 60


def agent_of_this_worker(gate=None):
    """Return the process id of the agent whose fork server has forked this process."""
    if gate is not None:
        hold(gate)
    return psutil.Process(os.getppid()).ppid()


def variables(gate, *names):
    hold(gate)
    return psutil.Process(os.getppid()).ppid(), [os.environ.get(name) for name in names]


def write_own(path, text):
    path.write_text(text)
    path.chmod(0o600)


@pytest.fixture
def make_executor(opened):
    def make(**parameters):
        opened.append(Executor(**{"hosts": ["localhost:1"], "max_workers": 3, **parameters}))
        return opened[-1]

    return make


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.json"


@pytest.fixture
def join(path):
    """Return a function that starts `pympipool join`."""
    started = []

    def start(*arguments, **environment):
        command = [sys.executable, "-m", "pympipool", "join", str(path), *arguments]
        variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=variables, **output))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@MODES
def test_joined_host_runs_calls_without_room_elsewhere(make_executor, path, join, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    exe.write_join_file(path)
    calls = [exe.submit(agent_of_this_worker, gate.path) for _ in range(3)]
    gate.wait_until_begun(1)
    joined = join("--cores", "2")
    gate.wait_until_begun(2)
    gate.open(3)
    assert sorted(call.result() == joined.pid for call in calls) == [False, True, True]
    exe.shutdown()
    assert (joined.wait(END_S), *joined.communicate()) == (0, "", "")
    assert not path.exists()


def test_hosts_join_more_than_once(make_executor, path, join, gate):
    exe = make_executor(block_allocation=True)
    exe.write_join_file(path)
    joined = [join("--cores", "1") for _ in range(2)]
    calls = [exe.submit(agent_of_this_worker, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)
    gate.open(3)
    assert {process.pid for process in joined} < {call.result() for call in calls}


def test_only_the_owner_can_read_the_file(make_executor, path):
    path.write_text("")
    path.chmod(0o666)
    make_executor().write_join_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_lost_joined_host_loses_its_calls_only(make_executor, path, join, gate):
    exe = make_executor(block_allocation=True)
    exe.write_join_file(path)
    joined = join("--cores", "2")
    calls = [exe.submit(agent_of_this_worker, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)
    joined.kill()
    wait_until(lambda: sum(call.done() for call in calls) == 2)
    assert [type(call.exception()) for call in calls if call.done()] == [WorkerDied] * 2
    again = join("--cores", "1")
    calls.append(exe.submit(agent_of_this_worker, gate.path))
    gate.wait_until_begun()
    gate.open(2)
    assert calls[-1].result() == again.pid
    assert sum(call.exception() is None for call in calls) == 2


def test_ctrl_c_ends_a_joined_host_quietly(make_executor, path, join):
    exe = make_executor(block_allocation=True)
    exe.write_join_file(path)
    joined = join()
    wait_until(lambda: len(exe.info["workers"]) > 1)
    joined.send_signal(signal.SIGINT)
    assert joined.communicate(timeout=END_S) == ("", "")
    assert exe.submit(square, 3).result() == 9


def test_worker_has_the_job_of_its_host(make_executor, path, join, gate, monkeypatch):
    monkeypatch.setenv("OF_THE_SCRIPT", "1")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "first")
    monkeypatch.setenv("NSLOTS", "4")
    exe = make_executor(block_allocation=True)
    exe.write_join_file(path)
    of_job = {
        "SLURM_JOB_ID": "17",
        "SLURM_CLUSTER_NAME": None,
        "NSLOTS": "8",
        "PBS_NODEFILE": "nodes",
        "PBS_JOBID": "5",
    }
    joined = join("--cores", "1", OF_THE_SCRIPT="2", OF_THE_HOST="3", **of_job)
    names = "OF_THE_SCRIPT", "OF_THE_HOST", *of_job
    calls = [exe.submit(variables, gate.path, *names) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert dict(call.result() for call in calls)[joined.pid] == ["1", None, "17", None, "8", None, "5"]


def test_small_joined_host_hides_no_larger_one(make_executor, path, join):
    exe = make_executor(hosts=["localhost:2"], block_allocation=False)
    exe.write_join_file(path)
    join("--cores", "1")
    agents = exe._backend.agents_for(exe._resources)
    wait_until(lambda: agents._hosts)
    assert exe.submit(square, 3, resource_dict={"threads_per_core": 2}).result(END_S) == 9


def test_file_of_another_executor_is_not_removed(make_executor, path):
    first, second = make_executor(), make_executor()
    first.write_join_file(path)
    second.write_join_file(path)
    written = path.read_text()
    first.shutdown()
    assert path.read_text() == written


def test_file_tells_of_the_next_relay(make_executor, path, join, gate):
    exe = make_executor(block_allocation=True)
    exe.write_join_file(path)
    before = json.loads(path.read_text())["environment"]
    psutil.Process(exe._backend._relay.pid).kill()
    wait_until(lambda: json.loads(path.read_text())["environment"] != before)
    joined = join("--cores", "2")
    calls = [exe.submit(agent_of_this_worker, gate.path) for _ in range(3)]
    gate.wait_until_begun(3)
    gate.open(3)
    assert joined.pid in [call.result() for call in calls]


# ---- errors ----


def test_file_that_cannot_be_written_is_an_error(make_executor, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        make_executor().write_join_file(tmp_path / "none" / "run.json")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backend": "mpi"}, "the backend of this one is 'mpi'"),
        ({"backend": "serial"}, "the backend of this one is 'serial'"),
        ({"hosts": ["localhost"], "hostname_localhost": True}, "hostname_localhost is True"),
    ],
)
def test_executor_that_no_host_can_join_says_so(opened, path, parameters, message):
    opened.append(Executor(max_workers=1, **parameters))
    with pytest.raises(ValueError, match=message):
        opened[-1].write_join_file(path)


def test_no_host_joins_what_opens_no_port(make_executor, path, monkeypatch):
    """As in a flux instance of one host."""
    monkeypatch.setattr(SchedulerBackend, "is_on_one_host", True)
    with pytest.raises(ValueError, match="opens no port"):
        make_executor().write_join_file(path)
    assert not path.exists()


def test_closed_executor_writes_no_file(make_executor, path):
    exe = make_executor()
    exe.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.write_join_file(path)
    assert not path.exists()


def test_host_cannot_join_what_has_ended(make_executor, path, join):
    exe = make_executor()
    exe.write_join_file(path)
    old = path.read_text()
    exe.shutdown()
    write_own(path, old)
    joined = join()
    _, message = joined.communicate(timeout=END_S)
    assert "cannot connect to the master" in message.splitlines()[-1]
    assert joined.returncode == 1


@pytest.mark.parametrize("text", [None, "", "[]", '{"environment": {}}'])
def test_wrong_file_is_told(path, join, text):
    if text is not None:
        write_own(path, text)
    joined = join()
    output, message = joined.communicate(timeout=END_S)
    assert (joined.returncode, output) == (1, "")
    assert message.startswith("pympipool join: ")
    assert "Executor.write_join_file" in message
    assert "somebody else" not in message


@pytest.mark.parametrize("mode", [0o640, 0o622])
def test_file_that_others_may_have_written_is_refused(make_executor, path, join, mode):
    make_executor().write_join_file(path)
    path.chmod(mode)
    joined = join()
    _, message = joined.communicate(timeout=END_S)
    assert joined.returncode == 1
    assert f"{path} is not a file that only you can read and write" in message


def test_link_is_not_followed(make_executor, path, join):
    make_executor().write_join_file(path.with_name("own.json"))
    path.symlink_to("own.json")
    joined = join()
    joined.communicate(timeout=END_S)
    assert joined.returncode == 1
