"""MPI workers on two hosts, which this machine plays: where ranks are, what ends what, and what is left."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

import pympipool
from pympipool import Executor
from pympipool.backends.agent import jobs, launches, spanning, spanning_spawner
from pympipool.backends.mpi_library import Library
from pympipool.backends.registry import BACKENDS
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool import block_pool
from support.calls import hold, square
from support.loopback_agents import CORES
from support.loopback_spanning import EachHostLauncher, LoopbackSpanningBackend
from support.processes import own_processes, still_alive
from support.scripts import Script
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.mpi]

THREADS = CORES // 2
RANKS = 3
"""Ranks of a worker that fits into none of the hosts: two are on one of them."""


@pytest.fixture
def make_executor(monkeypatch, opened):
    monkeypatch.setitem(BACKENDS, "spanning", LoopbackSpanningBackend)
    monkeypatch.setattr(spanning_spawner, "addresses", spanning_spawner.addresses)  # the backend changes it

    def make(**parameters):
        parameters = {"max_cores": 2 * CORES, "cores_per_worker": RANKS, "threads_per_core": THREADS, **parameters}
        opened.append(Executor(backend="spanning", **parameters))
        return opened[-1]

    yield make
    LoopbackSpanningBackend.made.clear()


@pytest.fixture(autouse=True)
def nothing_is_left(mark, monkeypatch):
    monkeypatch.setattr(launches, "RELAUNCH_PAUSE_S", 0.1)
    monkeypatch.setattr(spanning, "PART_GRACE_S", 0.2)
    before = set(own_processes(mark))
    yield
    assert still_alive([process for process in own_processes(mark) if process not in before]) == []


def place_of_rank(value=0):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return (
        world.Get_rank(),
        world.Get_size(),
        world.allreduce(value),
        os.getppid(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def test_ranks_fill_as_few_hosts_as_possible(make_executor):
    exe = make_executor(block_allocation=False, gpus_per_worker=RANKS)  # each host has two
    ranks = exe.submit(place_of_rank, 2).result()
    assert [rank[:3] for rank in ranks] == [(number, RANKS, 2 * RANKS) for number in range(RANKS)]
    proxies = [proxy for *_, proxy, _ in ranks]
    assert [proxies.count(proxy) for proxy in dict.fromkeys(proxies)] == [2, 1]
    assert [gpus for *_, gpus in ranks] == ["0,1", "0,1", "0"]


def variables(*names):
    return [os.environ.get(name) for name in names]


def processes_named(name):
    """Return the processes below this one whose names begin so. Others may end meanwhile."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith(name):
                found.append(process)
    return found


def test_mpiexec_knows_neither_key_nor_settings(make_executor, monkeypatch, gate):
    monkeypatch.setenv("OF_THE_USER", "1")
    monkeypatch.setenv("HOME_TOKEN", "1")
    monkeypatch.setenv("HYDRA_LAUNCHER_AUTOFORK", "0")  # mpiexec would abort
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun(RANKS)
    (mpiexec,) = processes_named("mpiexec")
    assert {name for name in mpiexec.environ() if not name.startswith(("HYDRA_", "MPIEXEC_"))} <= {
        "PATH",
        "LD_LIBRARY_PATH",
        "HOME",
    }
    gate.open(RANKS)
    call.result()
    assert exe.submit(variables, "OF_THE_USER", "PYMPIPOOL_KEY").result() == [["1", None]] * RANKS


def die_on_rank(rank):
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    MPI.COMM_WORLD.Barrier()


def test_killed_rank_ends_its_call_alone(make_executor):
    exe = make_executor()
    error = exe.submit(die_on_rank, RANKS - 1).exception()
    assert isinstance(error, WorkerDied)
    assert len(exe.submit(place_of_rank).result()) == RANKS


@pytest.mark.parametrize("name", ["mpiexec", "hydra_pmi_proxy", "agent"])
def test_end_of_a_part_ends_the_worker(make_executor, gate, name):
    exe = make_executor()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun(RANKS)
    if name == "agent":
        os.kill(LoopbackSpanningBackend.made[-1].agents._hosts["two"].agent_pid, signal.SIGKILL)
    else:
        processes_named(name)[-1].kill()
    assert isinstance(call.exception(), WorkerDied)
    assert len(exe.submit(place_of_rank).result()) == RANKS


def test_worker_gives_its_slots_back(make_executor):
    exe = make_executor(block_allocation=False)
    calls = [exe.submit(place_of_rank), exe.submit(square, 2, resource_dict={"cores": 1}), exe.submit(place_of_rank)]
    assert [len(calls[0].result()), calls[1].result(), len(calls[2].result())] == [RANKS, 4, RANKS]


@pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])
def test_calls_wait_for_a_host_that_is_away(make_executor, monkeypatch, block_allocation):
    monkeypatch.setattr(block_pool, "START_ATTEMPTS", 1)
    monkeypatch.setitem(EachHostLauncher.away, "two", True)
    exe = make_executor(block_allocation=block_allocation)
    call = exe.submit(place_of_rank)
    launches = LoopbackSpanningBackend.made[-1].launcher.launches
    wait_until(lambda: launches.count(["two"]) >= 2)
    assert not call.done()
    EachHostLauncher.away.clear()
    assert len(call.result()) == RANKS


def test_missing_host_is_told_with_its_reason(make_executor, monkeypatch):
    monkeypatch.setitem(EachHostLauncher.away, "two", False)
    exe = make_executor(block_allocation=False)
    error = exe.submit(place_of_rank).exception()
    assert isinstance(error, WorkerStartError)
    assert "the hosts have too few (one has 4 and 2; two cannot be reached): two has no power" in str(error)


def test_one_address_of_two_hosts_is_told(make_executor, monkeypatch):
    exe = make_executor(block_allocation=False)
    monkeypatch.setattr(spanning_spawner, "addresses", lambda _: ["10.0.0.1"] * 2)
    error = exe.submit(place_of_rank).exception()
    assert isinstance(error, WorkerStartError)
    assert "hosts have the same address (one at 10.0.0.1, two at 10.0.0.1)" in str(error)


def test_cancelled_worker_leaves_nothing(make_executor, gate):
    exe = make_executor()
    exe.submit(hold, gate.path)
    wait_until(lambda: processes_named("mpiexec"))  # its ranks have not connected
    exe.shutdown(wait=False, cancel_futures=True)
    exe.kill_workers()
    exe.shutdown()


def test_missing_proxy_is_told(make_executor, monkeypatch):
    proxy_of = jobs.proxy_of_spanning_job
    monkeypatch.setattr(
        spanning_spawner, "proxy_of_spanning_job", lambda command: proxy_of(["/no/proxy", *command[1:]])
    )
    exe = make_executor(block_allocation=False)
    error = exe.submit(square, 2).exception()
    assert isinstance(error, WorkerStartError)
    assert "cannot start /no/proxy: [Errno 2] No such file or directory" in str(error)


@pytest.mark.parametrize("version", ["Open MPI v5.0.11", "Intel(R) MPI Library 2021.17"])
def test_other_libraries_are_told_with_the_remedy(make_executor, monkeypatch, version):
    monkeypatch.setattr(jobs, "loaded_library", lambda: Library(version, ""))
    with pytest.raises(
        WorkerStartError, match=rf"{RANKS} ranks fits into none of the hosts, and mpi4py loads .* fewer cores"
    ):
        make_executor()


MASTER = """
import os, signal, time
from pympipool import Executor
from pympipool.backends.agent import spanning_spawner
from pympipool.backends.registry import BACKENDS
from support.loopback_spanning import LoopbackSpanningBackend

def end(command=()):
    print("ended", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    BACKENDS["spanning"] = LoopbackSpanningBackend
    if {is_early}:  # mpiexec waits for its proxies
        spanning_spawner.proxy_of_spanning_job = end
    exe = Executor(backend="spanning", max_cores=8, cores_per_worker=3, threads_per_core=2)
    exe.submit(time.sleep, 600)
    while not exe.info["workers"]:
        time.sleep(0.01)
    end()
"""


@pytest.mark.parametrize("is_early", [True, False], ids=["before its proxies are started", "while it serves"])
def test_nothing_survives_a_killed_master(tmp_path, is_early):
    path = os.pathsep.join([str(Path(pympipool.__file__).parents[1]), str(Path(__file__).parents[2])])
    with Script(MASTER.format(is_early=is_early), tmp_path, variables={"PYTHONPATH": path}) as script:
        code, stdout, stderr = script.end()
        assert (code, stdout) == (-signal.SIGKILL, "ended\n"), stderr
        assert script.survivors() == []
