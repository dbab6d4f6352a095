"""What workers and the master send to each other travels over the one connection of the agent."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends.agent import agents
from pympipool.backends.registry import BACKENDS
from support.calls import hold, pid, square
from support.loopback_agents import CORES, LoopbackAgentsBackend, LoopbackLauncher
from support.loopback_tcp import relay_process
from support.processes import own_processes, still_alive
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

MB = 1 << 20

LOSING_AGENT = """
import signal
from pympipool.transport.tcp.agent_stream import AgentStream as Stream
flush, receive, state = Stream.flush, Stream.receive, {"lost": False, "failed": False}
def lossy_flush(self):
    if state["failed"]:
        state.update(lost=False, failed=False)
        raise ConnectionError("the network was cut off")
    if not state["lost"]:
        flush(self)
Stream.flush = lossy_flush
Stream.receive = lambda self: iter(()) if state["lost"] else receive(self)
signal.signal(signal.SIGUSR1, lambda *_: state.update(lost=True))
signal.signal(signal.SIGUSR2, lambda *_: state.update(failed=True))
"""
"""Code of an agent that neither sends nor receives after SIGUSR1, and loses its connection after SIGUSR2."""


@pytest.fixture
def make_executor(monkeypatch, opened, mark):
    monkeypatch.setitem(BACKENDS, "agents", LoopbackAgentsBackend)
    before = set(own_processes(mark))

    def make(max_cores, code="", **parameters):
        monkeypatch.setattr(LoopbackAgentsBackend, "agent_code", code)
        if max_cores <= CORES:  # all workers on one host, whichever agent would be the first
            monkeypatch.setattr(LoopbackLauncher, "names", ("one",))
        opened.append(Executor(backend="agents", max_cores=max_cores, block_allocation=True, **parameters))
        wait_until(lambda: len(opened[-1].info["workers"]) == max_cores)
        return opened[-1], LoopbackAgentsBackend.made[-1]

    yield make
    for exe in opened:
        exe.shutdown(cancel_futures=True)
    LoopbackAgentsBackend.made.clear()
    assert still_alive([process for process in own_processes(mark) if process not in before]) == []


def host_of(backend, worker):
    """Return the host of a worker: that of the agent that was there first."""
    above = {process.pid for process in psutil.Process(worker).parents()}
    return next(host for host in backend.agents._hosts.values() if host.agent_pid in above)


def agent_of(backend, worker):
    return psutil.Process(host_of(backend, worker).agent_pid)


def pids(exe):
    return {worker["pid"] for worker in exe.info["workers"]}


def same(value):
    return value


def test_one_connection_carries_all_workers_of_a_host(make_executor):
    exe, _ = make_executor(2 * CORES)
    assert list(exe.map(square, range(100))) == [i * i for i in range(100)]
    connections = [one for one in relay_process().net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
    assert len(connections) == 4  # an encrypted one and a keepalive connection for each of the two hosts
    assert relay_process().num_threads() < 2 * CORES


def test_workers_of_agents_need_no_descriptor(make_executor):
    exe, _ = make_executor(1)
    before = descriptors_of_master_and_relay()
    exe.max_workers = CORES
    wait_until(lambda: len(exe.info["workers"]) == CORES)
    assert sorted(exe.map(square, range(20))) == [i * i for i in range(20)]

    def are_no_more():  # one may be open for a moment
        of_master, of_relay = descriptors_of_master_and_relay()
        return of_master <= before[0] and of_relay <= before[1]

    wait_until(are_no_more)


def test_large_init_function_comes_to_hosts_once(make_executor):
    data = os.urandom(8 * MB)
    exe, _ = make_executor(2 * CORES, init_function=lambda: {"size": len(data)})
    assert list(exe.map(lambda number, size: size, range(100))) == [len(data)] * 100
    assert relay_process().io_counters().write_chars < 2 * len(data), "the hosts are one machine, and have it once"


def descriptors_of_master_and_relay():
    gc.collect()
    return psutil.Process().num_fds(), relay_process().num_fds()


@pytest.mark.parametrize("size", [0, 100, 1 << 14, (1 << 16) - 40, 1 << 16, 5_000_000])
def test_arrays_of_any_size_travel_through_agents(make_executor, size):
    exe, _ = make_executor(1)
    array = np.arange(size, dtype="u1")
    back = exe.submit(same, array).result()
    assert (back == array).all()
    back[:1] = 7


def test_worker_that_reads_nothing_delays_no_other(make_executor, gate, tmp_path):
    exe, backend = make_executor(2)
    held = exe.submit(tell_pid_and_hold, tmp_path / "pid", gate.path)
    gate.wait_until_begun()
    (stopped,) = pids(exe) - {int((tmp_path / "pid").read_text())}
    agent = agent_of(backend, stopped)
    before = agent.memory_info().rss
    os.kill(stopped, signal.SIGSTOP)
    try:
        large = exe.submit(same, bytes(64 * MB))
        wait_until(large.running)
        gate.open()
        other = held.result()
        quiet_rounds, received = 0, 0
        while quiet_rounds < 5:  # until no more of the large call arrives there
            assert {exe.submit(pid).result() for _ in range(50)} == {other}
            before_round, received = received, agent.io_counters().read_chars
            quiet_rounds = quiet_rounds + 1 if received - before_round < MB else 0
        assert agent.memory_info().rss - before < 16 * MB
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert large.result() == bytes(64 * MB)


def tell_pid_and_hold(path, gate):
    path.write_text(str(os.getpid()))
    return hold(gate)


def test_result_that_nobody_reads_delays_no_other(make_executor):
    exe, _ = make_executor(4)
    large = [exe.submit(np.zeros, 4 * MB) for _ in range(8)]
    small = [exe.submit(square, i) for i in range(200)]
    assert [call.result() for call in small] == [i * i for i in range(200)]
    assert [len(call.result()) for call in large] == [4 * MB] * 8


@pytest.mark.parametrize("times", [1, 3])
def test_calls_survive_lost_connections(make_executor, gate, tmp_path, times):
    exe, backend = make_executor(CORES, LOSING_AGENT)
    workers = pids(exe)
    agent = agent_of(backend, min(workers))
    for _ in range(times):
        before = [exe.submit(hold, gate.path, bytes(200_000 + i)) for i in range(CORES)]
        gate.wait_until_begun(CORES)
        agent.send_signal(signal.SIGUSR1)
        gate.open(CORES)  # their results, and the calls that follow, do not arrive
        behind = [exe.submit(append, tmp_path / "ran", i) for i in range(50)]
        agent.send_signal(signal.SIGUSR2)
        assert [len(call.result()) for call in before] == [200_000 + i for i in range(CORES)]
        assert [call.result() for call in behind] == list(range(50))
    assert sorted((tmp_path / "ran").read_text().split()) == sorted([str(i) for i in range(50)] * times)
    assert pids(exe) == workers
    assert agent.is_running()


def append(path, number):
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


def test_agent_that_the_relay_has_given_up_ends(make_executor):
    exe, backend = make_executor(1, LOSING_AGENT)
    (worker,) = pids(exe)
    agent, host = agent_of(backend, worker), host_of(backend, worker)
    agent.send_signal(signal.SIGUSR1)
    host.close()  # the relay hangs up
    wait_until(lambda: not agent.is_running())
    assert exe.submit(square, 3).result() == 9  # of another worker


class FullStream:
    """A stdout that takes nothing until it is opened."""

    def __init__(self):
        self.is_open = threading.Event()
        self.written = 0

    def write(self, text):
        assert self.is_open.wait(60)
        self.written += text.count("x")

    def flush(self):
        pass


def print_much(size):
    print("x" * size)


def test_output_that_nobody_takes_waits_there(make_executor, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := FullStream())
    exe, backend = make_executor(2)
    relay, agent = relay_process(), agent_of(backend, min(pids(exe)))
    before = [psutil.Process().memory_info().rss, relay.memory_info().rss, agent.memory_info().rss]
    call = exe.submit(print_much, 64 * MB)
    wait_until(call.running)
    quiet_rounds, received = 0, 0
    while quiet_rounds < 5:  # until no more of the output arrives there
        assert {exe.submit(square, i).result() for i in range(50)} == {i * i for i in range(50)}
        before_round, received = received, agent.io_counters().read_chars
        quiet_rounds = quiet_rounds + 1 if received - before_round < MB else 0
    assert not call.done()
    after = [psutil.Process().memory_info().rss, relay.memory_info().rss, agent.memory_info().rss]
    assert max(now - then for then, now in zip(before, after, strict=True)) < 16 * MB
    stream.is_open.set()
    call.result()
    exe.shutdown()
    assert stream.written == 64 * MB


DYING_AGENT = """
import os, signal, sys
def die(*_):
    print("no memory is left", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGUSR1, die)
"""


def test_lost_worker_is_told_with_launchers_words(make_executor, gate):
    exe, backend = make_executor(1, DYING_AGENT)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    agent_of(backend, min(pids(exe))).send_signal(signal.SIGUSR1)
    assert re.search("its launcher (ended with .*; )?says: no memory is left", str(call.exception()))


PRINTING_AGENT = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("x" * 300_000, file=sys.stderr, flush=True))
"""


def test_agent_that_prints_much_does_not_stand_still(make_executor, monkeypatch):
    monkeypatch.setattr(agents, "READ_INTERVAL_S", 0.1)
    exe, backend = make_executor(1, PRINTING_AGENT)
    agent_of(backend, min(pids(exe))).send_signal(signal.SIGUSR1)
    assert exe.submit(square, 3).result() == 9
