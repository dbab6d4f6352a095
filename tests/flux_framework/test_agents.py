"""Agents in an instance of the user: one job starts them on all hosts, and they start the workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.agent import launches
from pympipool.errors import WorkerDied
from support.calls import hold, pid, square
from support.flux_instance import path_for_scripts
from support.processes import is_alive
from support.scripts import Script
from support.waiting import wait_until

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)


@pytest.fixture
def make_executor(opened):
    def make(max_cores=8, **parameters):
        opened.append(Executor(max_cores=max_cores, backend="flux", **parameters))
        return opened[-1]

    return make


def make_hosts(make_instance):
    if os.geteuid() != 0:
        pytest.skip("brokers get host names of their own as root only: sudo python -m pytest tests/flux_framework")
    return make_instance(2, cores=4, on_hosts=True)


@pytest.fixture(scope="module")
def _running_hosts(make_instance):
    return make_hosts(make_instance)


@pytest.fixture
def hosts(_running_hosts, monkeypatch):
    """An instance of two hosts, flux0 and flux1, of 4 cores each."""
    monkeypatch.setenv("FLUX_URI", _running_hosts.uri)
    yield _running_hosts
    assert _running_hosts.wait_until_empty() == []


NAMES = ("FLUX_JOB_SIZE", "FLUX_TASK_RANK", "PMI_RANK", "PYMPIPOOL_KEY")


def of_worker(gate):
    hold(gate)
    return socket.gethostname(), os.getppid(), [os.environ.get(name) for name in NAMES]


def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()


def kinds_of_jobs(instance):
    """Return, sorted, whether each job has agents or a worker."""
    return sorted("agents" if "-agents-" in job else "worker" for job in instance.active_jobs())


@MODES
def test_one_job_starts_agents_on_all_hosts(hosts, make_executor, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    calls = [exe.submit(of_worker, gate.path) for _ in range(8)]
    gate.wait_until_begun(8)
    assert kinds_of_jobs(hosts) == ["agents"]
    gate.open(8)
    results = [call.result() for call in calls]
    assert sorted(host for host, _, _ in results) == ["flux0"] * 4 + ["flux1"] * 4
    assert len({parent for _, parent, _ in results}) == 2
    assert [variables for _, _, variables in results] == [["1", "0", None, None]] * 8


def test_brokers_of_one_host_share_an_agent(two_brokers, make_executor, gate):
    exe = make_executor(block_allocation=True)
    calls = [exe.submit(of_worker, gate.path) for _ in range(8)]
    gate.wait_until_begun(8)
    gate.open(8)
    assert len({call.result()[1] for call in calls}) == 1
    assert kinds_of_jobs(two_brokers) == ["agents"]


def test_process_per_call_needs_no_job_each(one_broker, make_executor):
    exe = make_executor(block_allocation=False)
    assert len(set(exe.map(pid, range(50), chunksize=1))) == 50
    assert kinds_of_jobs(one_broker) == ["agents"]


def test_single_host_instance_opens_no_port(one_broker, make_executor):
    exe = make_executor(block_allocation=True)
    worker = psutil.Process(exe.submit(pid).result())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True), worker, *worker.parents()[:2]]
    assert "pympipool_agent" in worker.parents()[0].cmdline()
    assert [one for process in processes for one in process.net_connections("inet")] == []


# ---- what flux starts beside agents ----


@pytest.mark.parametrize("wanted", [{"time_limit": 100}, {"step": True}, {"exclusive": True}], ids=str)
def test_call_that_wants_it_gets_a_job(one_broker, make_executor, gate, wanted):
    exe = make_executor(block_allocation=False)
    assert exe.submit(square, 3).result() == 9
    call = exe.submit(hold, gate.path, resource_dict=wanted)
    gate.wait_until_begun()
    assert kinds_of_jobs(one_broker) == ["agents", "worker"]
    gate.open()
    call.result()


@pytest.mark.mpi
def test_ranks_of_one_host_need_no_job(hosts, make_executor, gate):
    exe = make_executor(block_allocation=False)
    call = exe.submit(hold_on_host, gate.path, resource_dict={"cores": 4})
    gate.wait_until_begun(4)
    assert kinds_of_jobs(hosts) == ["agents"]
    gate.open(4)
    assert len(set(call.result())) == 1


@pytest.mark.mpi
def test_ranks_of_several_hosts_find_cores_beside_agents(hosts, make_executor):
    exe = make_executor()
    assert list(exe.map(square, range(8), chunksize=1)) == [number**2 for number in range(8)]
    names = exe.submit(socket.gethostname, resource_dict={"cores": 8}).result(timeout=60)
    assert sorted(names) == ["flux0"] * 4 + ["flux1"] * 4


def test_script_that_is_a_job_gets_jobs(one_broker, make_executor, monkeypatch):
    monkeypatch.setenv("FLUX_JOB_ID", "of the test")
    exe = make_executor(1, block_allocation=True)
    assert exe.submit(square, 2).result() == 4
    assert kinds_of_jobs(one_broker) == ["worker"]


def test_executor_of_a_call_gets_jobs(one_broker, make_executor):
    """So flux counts what all calls together use."""
    exe = make_executor(1, block_allocation=True)
    assert exe.submit(kinds_inside, one_broker.uri).result() == ["agents", "worker"]


def kinds_inside(uri):
    from pympipool import Executor

    with Executor(max_workers=1, block_allocation=True) as inner:
        inner.submit(abs, -1).result()
        names = subprocess.run(
            ["flux", "jobs", "-no", "{name}"],
            env={**os.environ, "FLUX_URI": uri},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return sorted("agents" if "-agents-" in name else "worker" for name in names.split())


# ---- devices ----


def devices(gate):
    hold(gate)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_each_worker_has_devices_of_its_own(one_broker, make_executor, gate):
    exe = make_executor(2, gpus_per_worker=1, block_allocation=True)
    calls = [exe.submit(devices, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert sorted(call.result() for call in calls) == ["0", "1"]
    assert kinds_of_jobs(one_broker) == ["agents"]


# ---- ends ----


def occupy_both(exe, gate):
    """Start a call on each host, and return the calls."""
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    return calls


def agents_of(exe):
    """Return the process ids of the agents, by host."""
    return {name: host.agent_pid for name, host in exe._engine.pool.spawner._agents._hosts.items()}


@MODES
def test_killed_agent_loses_its_calls_only(hosts, make_executor, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": 4})
    calls = occupy_both(exe, gate)
    (worker,) = [worker["pid"] for worker in exe.info["workers"] if worker["host"] == "flux1"]
    os.kill(agents_of(exe)["flux1"], signal.SIGKILL)
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert "the agent on flux1" in str(lost.exception())
    wait_until(lambda: not is_alive(worker))  # it would take what the gate has for the other
    gate.open()
    (other,) = [call for call in calls if call is not lost]
    assert other.result(timeout=60) == "flux0"
    again = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert {call.result() for call in again} == {"flux0", "flux1"}


def test_cancelled_job_of_agents_is_replaced(one_broker, make_executor, gate):
    exe = make_executor(1, block_allocation=True)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    one_broker.run("cancel", *one_broker.wait_for_jobs("R"))
    assert isinstance(call.exception(timeout=60), WorkerDied)
    assert exe.submit(square, 3).result(timeout=60) == 9


def test_agents_outlive_their_brokers(make_instance, monkeypatch, make_executor, gate):
    """They have connections of their own, and end with their executor."""
    doomed = make_hosts(make_instance)
    monkeypatch.setenv("FLUX_URI", doomed.uri)
    exe = make_executor(block_allocation=True, resource_dict={"threads_per_core": 4})
    calls = occupy_both(exe, gate)
    agents = agents_of(exe).values()
    doomed.kill()
    gate.open(2)
    assert {call.result(timeout=60) for call in calls} == {"flux0", "flux1"}
    assert exe.submit(square, 3).result(timeout=60) == 9
    exe.shutdown()
    wait_until(lambda: not any(is_alive(agent) for agent in agents))


MASTER = """
import os, signal, time
from pympipool import Executor
if __name__ == "__main__":
    exe = Executor(backend="flux", max_cores=8, block_allocation={block_allocation})
    for _ in range(8):
        exe.submit(time.sleep, 600)
    while len(exe.info["workers"]) < 8:
        time.sleep(0.01)
    print("served", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@MODES
def test_nothing_survives_a_killed_master(hosts, tmp_path, block_allocation):
    variables = {"FLUX_URI": hosts.uri, "PYTHONPATH": path_for_scripts()}
    with Script(MASTER.format(block_allocation=block_allocation), tmp_path, variables=variables) as script:
        code, stdout, stderr = script.end()
        assert (code, stdout) == (-signal.SIGKILL, "served\n"), stderr
        assert script.survivors() == []
