"""Shared data on two hosts: they cross the link once for each of them."""

from __future__ import annotations

import os
import socket
import time

import numpy as np
import pytest

from pympipool import Executor, share
from pympipool.errors import WorkerDied
from support.waiting import wait_until

ROWS = np.arange(8_000_000.0).reshape(80, -1)
WORKERS = 4


@pytest.fixture
def make_executor(job, second_host, opened):
    def make(max_cores, *arguments, **parameters):
        options = {"backend": "slurm", "block_allocation": True, "command_line_argument_lst": list(arguments)}
        opened.append(Executor(max_cores=max_cores, **{**options, **parameters}))
        return opened[-1]

    return make


def use(rows, number, pause_s=0.5):
    """Return what a row has, and the memory that it lies in, for long enough that no worker gets two of these calls."""
    found = float(rows[number].sum())
    time.sleep(pause_s)
    return found, socket.gethostname(), os.getpid(), shared_memory()


def shared_memory(*_):
    """Return inode and proportional size (Pss, kB) of the shared data that this process has mapped."""
    found = []
    with open("/proc/self/smaps") as file:
        for line in file:
            words = line.split()
            if words[0].endswith(":"):
                if words[0] == "Pss:" and found and found[-1][1] is None:
                    found[-1] = found[-1][0], int(words[1])
            elif "memfd:pympipool" in line and "r--s" in line:
                found.append((words[4], None))
    return found


def received_bytes(cluster):
    """Return how much the second host has received over its link so far."""
    return int(cluster.on_second("cat", "/sys/class/net/slurm0/statistics/rx_bytes").stdout)


def row_sums(count):
    return [float(ROWS[i].sum()) for i in range(count)]


def test_data_cross_the_link_once(make_executor, cluster):
    exe = make_executor(WORKERS, f"--nodelist={cluster.second}")
    wait_until(lambda: len(exe.info["workers"]) == WORKERS)
    rows = share(ROWS)
    before = received_bytes(cluster)
    seen = list(exe.map(use, [rows] * WORKERS, range(WORKERS), chunksize=1))
    assert ROWS.nbytes <= received_bytes(cluster) - before < 1.5 * ROWS.nbytes
    assert [found for found, *_ in seen] == row_sums(WORKERS)
    assert {host for _, host, *_ in seen} == {cluster.second}
    assert len({pid for *_, pid, _ in seen}) == WORKERS
    assert len({inode for *_, maps in seen for inode, _ in maps}) == 1
    at_once = list(exe.map(lambda rows: (rows.sum(), time.sleep(1), shared_memory())[2], [rows] * WORKERS, chunksize=1))
    assert sum(pss for maps in at_once for _, pss in maps) < 1.1 * ROWS.nbytes / 1024
    del rows
    wait_until(lambda: list(exe.map(shared_memory, range(4 * WORKERS), chunksize=1)) == [[]] * 4 * WORKERS)


def test_both_hosts_use_the_same_handle(make_executor, cluster):
    rows = share(ROWS)
    calls = []
    for host in (cluster.first, cluster.second):
        exe = make_executor(1, f"--nodelist={host}")
        calls.append(exe.submit(use, rows, 3))
    assert [call.result()[:2] for call in calls] == [(row_sums(4)[3], cluster.first), (row_sums(4)[3], cluster.second)]
    stays = exe.submit(lambda rows: share(rows[:2] + 1), rows)
    assert exe.submit(use, stays, 1).result()[0] == float((ROWS[1] + 1).sum())


def test_calls_with_processes_of_their_own(make_executor, cluster):
    exe = make_executor(2, f"--nodelist={cluster.second}", block_allocation=False)
    rows = share(ROWS)
    assert [seen[0] for seen in exe.map(use, [rows] * 3, range(3), chunksize=1)] == row_sums(3)


@pytest.mark.mpi
def test_ranks_on_both_hosts_get_the_data(make_executor, cluster):
    exe = make_executor(4, "--nodes=2", "--ntasks-per-node=2", cores_per_worker=4)
    rows = share(ROWS)
    seen = exe.submit(use, rows, 2).result()
    assert [found for found, *_ in seen] == [row_sums(3)[2]] * 4
    by_host = {host: {maps[0][0] for _, where, _, maps in seen if where == host} for _, host, *_ in seen}
    assert sorted(by_host) == sorted([cluster.first, cluster.second])
    assert [len(inodes) for inodes in by_host.values()] == [1, 1]


def test_host_that_is_cut_off_while_data_travel(make_executor, cluster):
    exe = make_executor(1, f"--nodelist={cluster.second}")
    other = make_executor(1, f"--nodelist={cluster.first}")
    exe.submit(os.getpid).result()
    rows = share(np.ones(400 << 20, np.uint8))
    before = received_bytes(cluster)
    call = exe.submit(len, rows)
    wait_until(lambda: received_bytes(cluster) > before + (4 << 20))
    cluster.cut_off()
    assert other.submit(len, rows).result(60) == 400 << 20
    with pytest.raises(WorkerDied, match="has not answered"):
        call.result(60)
