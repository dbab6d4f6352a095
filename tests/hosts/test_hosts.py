"""Agents on two hosts, started by ssh or mpiexec: where calls run, and what follows the ends of agents, hosts and masters."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from pympipool.errors import WorkerDied
from support.calls import hold, pid, square
from support.processes import children_named
from support.scripts import Script
from support.ssh_hosts import NAMES, SLOTS
from support.waiting import wait_until

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()


def variables(*names):
    return [os.environ.get(name) for name in names]


def starters():
    """Return the processes here that stand for agents."""
    return children_named("ssh", "mpiexec", "mpiexec.hydra")


# ---- where calls run ----


@MODES
def test_each_host_gets_a_call_per_slot(make_executor, gate, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2 * SLOTS)]
    gate.wait_until_begun(2 * SLOTS)
    assert len(starters()) == 2
    gate.open(2 * SLOTS)
    assert sorted(call.result() for call in calls) == [NAMES[0]] * SLOTS + [NAMES[1]] * SLOTS


def test_each_call_has_its_own_process(make_executor):
    exe = make_executor(block_allocation=False)
    assert len(set(exe.map(pid, range(60)))) > 30  # the hosts have pids of their own


def test_worker_has_the_environment_of_the_master(make_executor, monkeypatch):
    monkeypatch.setenv("OF_THE_MASTER", "1")
    monkeypatch.setenv("DISPLAY", ":7")
    exe = make_executor(block_allocation=False)
    names = ("OF_THE_MASTER", "DISPLAY", "PYMPIPOOL_KEY", "PMI_RANK", "PBS_NODEFILE", "PWD")
    assert exe.submit(variables, *names).result() == ["1", None, None, None, None, os.environ.get("PWD")]


def known_to_all(process):
    """Return the command and the environment of a process; nothing if it has ended."""
    try:
        return b"".join(Path("/proc", str(process), file).read_bytes() for file in ("cmdline", "environ"))
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_key_is_in_no_command_or_environment(make_executor, hosts):
    exe = make_executor(block_allocation=True)
    exe.submit(square, 2).result()
    key = exe._engine.pool.supervisor.listener.key
    for name in NAMES:
        seen = [known_to_all(process) for process in hosts.processes(name)]
        assert any(seen)
        assert not any(key.encode() in text for text in seen)
    for process in starters():
        assert key not in str([process.cmdline(), process.environ()])


def ranks(gate=None):
    from mpi4py import MPI

    if gate is not None and MPI.COMM_WORLD.Get_rank() == 0:
        hold(gate)
    return socket.gethostname(), MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


@pytest.mark.mpi
@MODES
def test_ranks_of_a_worker_are_on_one_host(make_executor, block_allocation):
    exe = make_executor(block_allocation=block_allocation, cores_per_worker=2, max_cores=4)
    for _ in range(2):
        result = exe.submit(ranks).result()
        assert {host for host, _, _ in result} <= set(NAMES)
        assert len({host for host, _, _ in result}) == 1
        assert [(rank, size) for _, rank, size in result] == [(0, 2), (1, 2)]


@pytest.mark.mpi
def test_ended_rank_ends_its_call_alone(make_executor, gate):
    exe = make_executor(block_allocation=False, cores_per_worker=2)
    held = exe.submit(ranks, gate.path)
    gate.wait_until_begun()
    assert isinstance(exe.submit(os.abort).exception(), WorkerDied)
    gate.open()
    assert len(held.result()) == 2


@pytest.mark.mpi
def test_cancelled_ranks_leave_nothing(make_executor, gate, hosts):
    exe = make_executor(block_allocation=True, cores_per_worker=2, max_cores=2)
    exe.submit(ranks, gate.path)
    gate.wait_until_begun()
    exe.shutdown(wait=False, cancel_futures=True)
    gate.open()
    exe.shutdown()
    wait_until(lambda: not hosts.left())
    assert [hosts.run(name, "ls", "/dev/shm") for name in NAMES] == ["", ""]


def test_fresh_interpreter_is_no_fork(make_executor):
    exe = make_executor(mp_context="spawn", max_cores=1, block_allocation=True)
    assert exe.submit(command_of_parent).result().count("pympipool_agent") == 1
    assert "pympipool_agent" not in exe.submit(own_command).result()


def own_command():
    return Path("/proc/self/cmdline").read_text()


def command_of_parent():
    return Path(f"/proc/{os.getppid()}/cmdline").read_text()


# ---- ends ----


def test_switch_does_not_answer_for_this_machine(hosts):
    """Its address changes when a host ends, and the other host would lose this machine."""
    hosts.run("hosta", "ip", "neigh", "flush", "dev", "eth0")  # as after its start
    hosts.run("hosta", "bash", "-c", "echo >/dev/udp/10.78.0.1/9")
    asked = ("ip", "neigh", "show", "10.78.0.1")
    wait_until(lambda: "lladdr" in hosts.run("hosta", *asked))
    address = Path("/sys/class/net/pmphost/address").read_text().strip()
    assert address in hosts.run("hosta", *asked)


@MODES
@pytest.mark.parametrize("end", ["agent", "starter", "cut off", "host"])
def test_end_of_a_host_loses_its_calls_only(make_executor, hosts, gate, block_allocation, end):
    exe = make_executor(block_allocation=block_allocation, resource_dict={"threads_per_core": SLOTS})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    wait_until(lambda: len(exe.info["workers"]) == 2)
    if end == "agent":
        os.kill(hosts.agent("hostb"), signal.SIGKILL)
    elif end == "cut off":
        hosts.cut_off("hostb")
    elif end == "host":
        hosts.end("hostb")
    else:
        (starter,) = [process for process in starters() if any("hostb" in word for word in process.cmdline())]
        is_ssh = starter.name() == "ssh"
        starter.kill()
        if is_ssh:  # the agent has its own connection, and goes on without ssh
            gate.open(2)
            assert sorted(call.result() for call in calls) == [*NAMES]
            return
    wait_until(lambda: any(call.done() for call in calls))
    (lost,) = [call for call in calls if call.done()]
    assert isinstance(lost.exception(), WorkerDied)
    assert lost.exception().host == "hostb"
    if end != "host":
        wait_until(lambda: not hosts.processes("hostb"))  # its worker would take what the gate has for the other
    gate.open()
    (other,) = [call for call in calls if call is not lost]
    assert other.result() == "hosta"
    hosts.start()
    again = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert sorted(call.result() for call in again) == [*NAMES]


def test_killed_starters_are_started_again(make_executor):
    exe = make_executor(block_allocation=False)
    calls = [exe.submit(square, number) for number in range(8)]
    wait_until(starters)
    for starter in starters():
        starter.kill()
    assert [call.result() for call in calls] == [number * number for number in range(8)]


def test_executor_may_end_while_agents_start(make_executor, hosts):
    exe = make_executor(block_allocation=True)
    wait_until(hosts.left)
    exe.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: not hosts.left(), 20)


def test_lost_call_is_retried_on_another_host(make_executor, hosts, gate):
    exe = make_executor(block_allocation=False, restart_limit=1, resource_dict={"threads_per_core": SLOTS})
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    hosts.end("hostb")
    gate.open()
    wait_until(lambda: any(call.done() for call in calls))
    gate.wait_until_begun()
    gate.open()
    assert [call.result() for call in calls] == ["hosta", "hosta"]


MASTER = """
import os, signal, time
from pympipool import Executor
if __name__ == "__main__":
    exe = Executor(**{parameters}, block_allocation={block_allocation})
    for _ in range(8):
        exe.submit(time.sleep, 600)
    while len(exe.info["workers"]) < 8:
        time.sleep(0.01)
    print("served", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@MODES
def test_nothing_survives_a_killed_master(way, hosts, tmp_path, block_allocation):
    with Script(MASTER.format(parameters=way, block_allocation=block_allocation), tmp_path) as script:
        code, stdout, stderr = script.end()
        assert (code, stdout) == (-signal.SIGKILL, "served\n"), stderr
        assert script.survivors() == []
    wait_until(lambda: not hosts.left())
