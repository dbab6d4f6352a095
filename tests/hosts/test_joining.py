"""Hosts that join an executor later, by `pympipool join` on them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool import Executor
from support.calls import hold, square
from support.ssh_hosts import NAMES, SLOTS
from support.waiting import wait_until

FIRST, SECOND = NAMES


def hold_on_host(gate):
    hold(gate)
    return socket.gethostname()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.json"


@pytest.fixture
def exe(hosts, opened, path):
    """An executor on the first host, which has less room than workers."""
    ssh = {"hosts": hosts.with_slots[:1], "command_line_argument_lst": hosts.ssh_arguments}
    opened.append(Executor(max_workers=SLOTS + 2, block_allocation=True, **ssh))
    opened[-1].write_join_file(path)
    return opened[-1]


@pytest.fixture
def joined(hosts, exe, path):
    """Log in on the second host, and run `pympipool join` there."""
    program = f"{sys.executable} -m pympipool join {path} --cores 2"
    command = f"exec env PYTHONPATH={Path(pympipool.__file__).parents[1]} {program}"
    process = subprocess.Popen(["ssh", *hosts.ssh_arguments, SECOND, command], stdin=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_joined_host_has_workers_without_room_elsewhere(exe, joined, gate):
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(SLOTS + 2)]
    gate.wait_until_begun(SLOTS + 2)
    gate.open(SLOTS + 2)
    assert sorted(call.result() for call in calls) == [FIRST] * SLOTS + [SECOND] * 2
    exe.shutdown()
    assert joined.wait(60) == 0


def test_lost_joined_host_loses_its_calls_only(exe, joined, hosts, gate):
    calls = [exe.submit(hold_on_host, gate.path) for _ in range(SLOTS + 2)]
    gate.wait_until_begun(SLOTS + 2)
    hosts.end(SECOND)
    wait_until(lambda: sum(call.done() for call in calls) == 2)
    gate.open(SLOTS)
    ends = [call.exception() for call in calls]
    assert sorted(type(end).__name__ for end in ends) == ["NoneType"] * SLOTS + ["WorkerDied"] * 2
    assert exe.submit(square, 3).result() == 9
