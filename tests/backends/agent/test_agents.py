"""Agents on two hosts, which this machine plays: they fork workers, are killed and stopped, or do not start."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import pympipool
from pympipool import Executor
from pympipool._util.devices import IN_USE
from pympipool.backends import relay_process
from pympipool.backends.agent import agents as module
from pympipool.backends.agent import launches
from pympipool.backends.registry import BACKENDS
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import hold, hold_or_square, pid, square
from support.loopback_agents import CORES, LoopbackAgentsBackend
from support.loopback_tcp import run_before_relay
from support.processes import own_processes, still_alive
from support.scripts import Script
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


@pytest.fixture
def make_executor(monkeypatch, opened):
    monkeypatch.setitem(BACKENDS, "agents", LoopbackAgentsBackend)

    def make(max_cores=2 * CORES, **parameters):
        opened.append(Executor(backend="agents", max_cores=max_cores, **parameters))
        return opened[-1], LoopbackAgentsBackend.made[-1]

    yield make
    LoopbackAgentsBackend.made.clear()


@pytest.fixture(autouse=True)
def nothing_is_left(mark, monkeypatch):
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)
    before = set(own_processes(mark))
    yield
    assert still_alive([process for process in own_processes(mark) if process not in before]) == []


def host_and_parent(gate=None):
    if gate is not None:
        hold(gate)
    return socket.gethostname(), os.getppid()


def seen(gate, name):
    hold(gate)
    return socket.gethostname(), os.environ.get(name)


def variable(name):
    return os.environ.get(name)


def write(text, to_stderr=False):
    print(text, file=sys.stderr if to_stderr else sys.stdout)


def die(text):
    print(text, file=sys.stderr)
    os.kill(os.getpid(), signal.SIGSEGV)


def agents_of(backend):
    return {name: psutil.Process(host.agent_pid) for name, host in [*backend.agents._hosts.items()]}


def pids_of_agents(backend):
    return {host.agent_pid for host in [*backend.agents._hosts.values()]}


# ---- workers ----


@MODES
def test_hosts_get_as_many_workers_as_fit(make_executor, gate, block_allocation):
    exe, backend = make_executor(block_allocation=block_allocation)
    calls = [exe.submit(host_and_parent, gate.path) for _ in range(2 * CORES)]
    gate.wait_until_begun(2 * CORES)
    gate.open(2 * CORES)
    places = [call.result() for call in calls]
    assert sorted(host for host, _ in places) == ["one"] * CORES + ["two"] * CORES
    assert len(set(places)) == 2  # one forkserver for each host
    assert backend.launcher.launches == [None]


def test_workers_occupy_a_core_for_each_thread(make_executor, gate):
    exe, _ = make_executor(block_allocation=False, resource_dict={"threads_per_core": CORES // 2 + 1})
    calls = [exe.submit(seen, gate.path, "OMP_NUM_THREADS") for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert sorted(call.result() for call in calls) == [("one", str(CORES // 2 + 1)), ("two", str(CORES // 2 + 1))]


def test_each_gpu_of_a_host_has_one_call(make_executor, gate):
    exe, _ = make_executor(block_allocation=False)
    calls = [exe.submit(seen, gate.path, "CUDA_VISIBLE_DEVICES", resource_dict={"gpus_per_core": 1}) for _ in range(4)]
    gate.wait_until_begun(4)
    without = exe.submit(variable, "CUDA_VISIBLE_DEVICES")
    assert without.result() == ""
    gate.open(4)
    assert sorted(call.result() for call in calls) == [("one", "0"), ("one", "1"), ("two", "0"), ("two", "1")]
    again = exe.submit(variable, "CUDA_VISIBLE_DEVICES", resource_dict={"gpus_per_core": 2})
    assert again.result() == "0,1"


def test_call_waits_for_devices_still_in_use(make_executor, gate, caplog):
    exe, backend = make_executor(block_allocation=False)
    name = "CUDA_VISIBLE_DEVICES"
    calls = [exe.submit(seen, gate.path, name, resource_dict={"gpus_per_core": 2}) for _ in range(2)]
    gate.wait_until_begun(2)
    for host in backend.agents._hosts.values():
        host._free_gpus += 2  # as if the master had given up these workers, which have not ended
    late = exe.submit(variable, name, resource_dict={"gpus_per_core": 2})
    wait_until(lambda: IN_USE in caplog.text)
    gate.open(2)
    assert late.result() == "0,1"
    assert [call.result()[1] for call in calls] == ["0,1"] * 2


def test_worker_has_the_present_environment_of_master(make_executor, monkeypatch):
    monkeypatch.setenv("EARLY", "1")
    exe, _ = make_executor(block_allocation=False)
    assert exe.submit(variable, "EARLY").result() == "1"
    monkeypatch.delenv("EARLY")
    monkeypatch.setenv("LATE", "2")
    assert [exe.submit(variable, name).result() for name in ("EARLY", "LATE", "PYMPIPOOL_KEY")] == [None, "2", None]


def test_large_output_arrives_whole(make_executor, capfd):
    exe, _ = make_executor(block_allocation=False)
    text = "x" * 99 + "\n"
    calls = [exe.submit(write, text * 20_000, to_stderr) for to_stderr in (True, False)]
    for call in calls:
        call.result()
    exe.shutdown()
    out, err = capfd.readouterr()
    assert (out.count(text), err.count(text)) == (20_000, 20_000)


def test_death_is_told_with_signal_and_words(make_executor):
    exe, _ = make_executor(block_allocation=False)
    error = exe.submit(die, "my last words").exception()
    assert isinstance(error, WorkerDied)
    assert error.exit_code == -signal.SIGSEGV
    assert error.host in {"one", "two"}
    assert "my last words" in str(error)


def test_each_call_has_its_own_process(make_executor):
    exe, _ = make_executor(block_allocation=False)
    assert len(set(exe.map(pid, range(60)))) == 60


def test_workers_retired_in_long_calls_finish_them(make_executor, gate):
    exe, backend = make_executor(4, block_allocation=True)
    wait_until(lambda: len(exe.info["workers"]) == 4)
    for _ in range(50):
        short = [exe.submit(hold_or_square, gate.path, i, held=-1) for i in range(4)]
        assert [call.result() for call in short] == [0, 1, 4, 9]
    calls = [exe.submit(hold_or_square, gate.path, i, held=i) for i in range(4)]
    gate.wait_until_begun(4)
    exe.max_workers = 1
    time.sleep(0.02)  # the relay notices that the calls take longer than those before
    gate.open(4)
    assert [call.result() for call in calls] == [0, 1, 4, 9]
    wait_until(lambda: len(exe.info["workers"]) == 1)
    assert backend.launcher.launches == [None]


def test_cancelled_call_waits_for_no_slot(make_executor, gate):
    exe, backend = make_executor(4 * CORES, block_allocation=False)  # more than the hosts have
    calls = [exe.submit(hold, gate.path, i) for i in range(2 * CORES)]
    gate.wait_until_begun(2 * CORES)
    waiting = [exe.submit(square, i) for i in range(2)]
    wait_until(lambda: len(backend.agents._waiting) == 2)
    assert waiting[0].cancel()
    wait_until(lambda: len(backend.agents._waiting) == 1)
    gate.open(2 * CORES)
    assert [call.result() for call in calls] == list(range(2 * CORES))
    assert waiting[1].result() == 1


# ---- failures ----


@MODES
@pytest.mark.parametrize("victim", ["agent", "forkserver"])
def test_killed_agent_loses_workers_and_is_replaced(make_executor, gate, block_allocation, victim):
    exe, backend = make_executor(block_allocation=block_allocation)
    calls = [exe.submit(hold, gate.path, i) for i in range(2 * CORES)]
    gate.wait_until_begun(2 * CORES)
    agent = agents_of(backend)["two"]
    workers = [psutil.Process(worker["pid"]) for worker in exe.info["workers"] if worker["host"] == "two"]
    (agent if victim == "agent" else agent.children()[0]).kill()
    wait_until(lambda: sum(call.done() for call in calls) == CORES)
    for call in calls:
        if call.done():
            error = call.exception()
            assert isinstance(error, WorkerDied)
            assert f"the agent on two (pid {agent.pid})" in str(error)
            assert "relay" not in str(error)
    assert still_alive(workers) == []  # they would take what the gate has for the others
    gate.open(CORES)
    wait_until(lambda: all(call.done() for call in calls))
    again = [exe.submit(host_and_parent, gate.path) for _ in range(2 * CORES)]
    gate.wait_until_begun(2 * CORES)
    gate.open(2 * CORES)
    assert {call.result()[0] for call in again} == {"one", "two"}
    assert backend.launcher.launches == [None, ["two"]]


def test_later_host_is_used_when_it_connects(make_executor, gate, monkeypatch):
    monkeypatch.setattr(module, "CHECK_INTERVAL_S", 1000.0)
    wait = "import time; time.sleep(0.5 * (socket.gethostname() == 'two'))"
    monkeypatch.setattr(LoopbackAgentsBackend, "agent_code", wait)
    exe, _ = make_executor(block_allocation=True)
    calls = [exe.submit(host_and_parent, gate.path) for _ in range(2 * CORES)]
    gate.wait_until_begun(2 * CORES)
    gate.open(2 * CORES)
    assert {call.result()[0] for call in calls} == {"one", "two"}


def test_stopped_agent_is_given_up(make_executor, gate, monkeypatch):
    exe, backend = make_executor(block_allocation=False)
    assert list(exe.map(square, range(8))) == [i * i for i in range(8)]
    wait_until(lambda: len(agents_of(backend)) == 2)
    stopped = agents_of(backend)
    for agent in stopped.values():
        agent.suspend()
    try:
        with monkeypatch.context() as patches:
            patches.setattr(module, "ANSWER_TIMEOUT_S", 1.0)  # not for the next ones, which may be busy
            call = exe.submit(square, 3)
            wait_until(lambda: not {agent.pid for agent in stopped.values()} & pids_of_agents(backend))
        assert call.result(timeout=60) == 9
    finally:
        for agent in stopped.values():
            agent.kill()


def test_killed_relay_and_agents_are_replaced(make_executor, gate):
    exe, backend = make_executor(block_allocation=False)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    relay = backend._relay.pid
    os.kill(relay, signal.SIGKILL)
    error = call.exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert f"(pid {relay}), through which it was connected, has ended (died of SIGKILL)" in str(error)
    assert exe.submit(square, 3).result(timeout=60) == 9
    assert backend.launcher.launches == [None, None] or set(backend.launcher.launches[1]) <= {"one", "two"}


def test_after_failed_launches_workers_start_without_agents(make_executor):
    exe, backend = make_executor(block_allocation=False)
    backend.launcher.broken = "echo no such host >&2; exit 3"
    assert exe.submit(square, 3).result(timeout=60) == 9
    assert backend.agents.is_unusable
    assert len(backend.launcher.launches) == module.FAILURES_MAX


@MODES
def test_worker_too_large_for_hosts_starts_without_agents(make_executor, block_allocation):
    exe, backend = make_executor(block_allocation=block_allocation, resource_dict={"gpus_per_core": 3})
    assert exe.submit(square, 3).result(timeout=60) == 9
    assert not backend.agents.is_unusable


def test_reason_of_failed_launch_reaches_the_caller(make_executor, monkeypatch):
    monkeypatch.setattr(module, "FAILURES_MAX", 100)
    exe, backend = make_executor(block_allocation=False)
    backend.launcher.broken = "echo no such host >&2; exit 3"
    error = exe.submit(square, 3).exception(timeout=60)
    assert isinstance(error, WorkerStartError)
    assert "no such host" in str(error)


@MODES
def test_relay_that_cannot_serve_agents_tells_why(make_executor, monkeypatch, block_allocation):
    """It listens before, and so the agents have been launched."""
    monkeypatch.setattr(module, "FAILURES_MAX", 100)
    code = "import ssl\ndef fail(*_): raise ssl.SSLError(1, 'no ciphers')\nssl.SSLContext.set_ciphers = fail"
    run_before_relay(code, monkeypatch)
    rounds, on_relay = [], module.Agents._on_relay

    def count_rounds(agents):
        rounds.append(None)
        on_relay(agents)

    monkeypatch.setattr(module.Agents, "_on_relay", count_rounds)
    exe, backend = make_executor(block_allocation=block_allocation)
    error = exe.submit(square, 3).exception(timeout=60)
    assert "the relay to workers on other hosts does not start: no ciphers" in str(error)
    assert not block_allocation or backend.launcher.launches
    time.sleep(0.1)  # no event tells of what must not happen
    assert len(rounds) < 100, "the end of the relay keeps the supervisor busy"


def test_relay_that_stalls_before_it_serves_tells_why(make_executor, monkeypatch):
    monkeypatch.setattr(module, "FAILURES_MAX", 100)
    monkeypatch.setattr(relay_process, "START_TIMEOUT_S", 2.0)
    run_before_relay("import ssl, time\nssl.SSLContext.set_ciphers = lambda *_: time.sleep(1000)", monkeypatch)
    exe, backend = make_executor(block_allocation=True)
    error = exe.submit(square, 3).exception(timeout=60)
    assert "the relay to workers on other hosts does not start: it has not answered within 2 s" in str(error)
    assert backend.launcher.launches


def test_executor_may_end_while_agents_start(make_executor):
    exe, _ = make_executor()
    exe.shutdown(wait=False, cancel_futures=True)


MASTER = """
import os, signal, sys, time
import pympipool
from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from support.loopback_agents import LoopbackAgentsBackend
BACKENDS["agents"] = LoopbackAgentsBackend
if __name__ == "__main__":
    exe = Executor(backend="agents", max_cores=8, block_allocation={block_allocation})
    for _ in range(8):
        exe.submit(time.sleep, 600)
    while len(exe.info["workers"]) < 8:
        time.sleep(0.01)
    print("served", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@MODES
def test_nothing_survives_a_killed_master(tmp_path, block_allocation):
    source = MASTER.format(block_allocation=block_allocation)
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join([str(Path(pympipool.__file__).parents[1]), tests])
    with Script(source, tmp_path, variables={"PYTHONPATH": path}) as script:
        code, stdout, _ = script.end()
        assert (code, stdout) == (-signal.SIGKILL, "served\n")
        assert script.survivors() == []


def test_threads_submit_while_agents_are_killed(make_executor):
    exe, backend = make_executor(block_allocation=False, resource_dict={"restart_limit": 20})
    results = []

    def submit(first):
        results.extend(exe.submit(square, i).result(timeout=100) for i in range(first, first + 15))

    threads = [threading.Thread(target=submit, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        wait_until(lambda: agents_of(backend))
        next(iter(agents_of(backend).values())).kill()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(i * i for first in (0, 100) for i in range(first, first + 15))
