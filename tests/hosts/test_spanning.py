"""MPI workers that are larger than a host: their ranks are on two, and what follows the loss of one of them."""

from __future__ import annotations

import socket

import pytest

from pympipool.errors import WorkerDied
from support.calls import hold
from support.ssh_hosts import SLOTS
from support.waiting import wait_until

pytestmark = pytest.mark.mpi

RANKS = SLOTS // 2 + 1


@pytest.fixture
def make_spanning(make_executor):
    """Make executors with workers whose ranks have two cores each: two on one host, and one on the other."""
    return lambda **parameters: make_executor(cores_per_worker=RANKS, threads_per_core=2, **parameters)


def place_of_rank(value):
    from mpi4py import MPI

    return socket.gethostname(), MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.allreduce(value)


def test_ranks_are_on_both_hosts(make_spanning, hosts):
    exe = make_spanning(block_allocation=True)
    expected = [("hosta", 0, 2 * RANKS), ("hosta", 1, 2 * RANKS), ("hostb", 2, 2 * RANKS)]
    assert exe.submit(place_of_rank, 2).result() == expected
    assert exe.info["workers"][0]["hosts"] == ["hosta", "hostb"]
    exe.shutdown()
    assert [hosts.run(name, "ls", "/dev/shm") for name in hosts.names] == ["", ""]


@pytest.mark.parametrize("way", ["ssh"], indirect=True)
@pytest.mark.parametrize("end", ["host of mpiexec cut off", "other host ended"])
def test_lost_host_ends_the_worker(make_spanning, hosts, gate, end):
    exe = make_spanning(block_allocation=False)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun(RANKS)
    if end == "other host ended":
        hosts.end("hostb")
    else:
        hosts.cut_off("hosta")
    assert isinstance(call.exception(), WorkerDied)
    wait_until(lambda: not any("hydra" in command for command in hosts.processes("hosta").values()))
    hosts.start()
    assert len(exe.submit(place_of_rank, 1).result()) == RANKS
