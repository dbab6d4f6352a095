"""Many workers of one core: the first are children of the master, further ones forks of the forkserver."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import time

import psutil
import pytest

from pympipool import Executor
from pympipool._util.import_path import package_folder
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.local.hybrid import DIRECT_STARTS, HybridSpawner
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool import block_pool
from support.calls import hold as hold_at
from support.processes import is_alive
from support.waiting import wait_until


def hold(seconds):
    time.sleep(seconds)
    return os.getpid()


def pids_of(exe, count):
    """Return the process ids of all workers."""
    pids = set()
    while len(pids) < count:
        pids |= {call.result() for call in [exe.submit(hold, 0.02) for _ in range(count)]}
    return pids


def forked_among(pids):
    return {pid for pid in pids if psutil.Process(pid).ppid() != os.getpid()}


def forkserver_of(pids):
    (forkserver,) = {psutil.Process(pid).ppid() for pid in forked_among(pids)}
    return psutil.Process(forkserver)


def test_further_workers_are_forked_and_end_with_executor():
    with Executor(max_workers=DIRECT_STARTS + 4, block_allocation=True) as exe:
        pids = pids_of(exe, DIRECT_STARTS + 4)
        assert len(forked_among(pids)) == 4
        forkserver = forkserver_of(pids)
        assert forkserver.ppid() == os.getpid()
    assert not forkserver.is_running()
    assert not any(map(is_alive, pids))  # zombies may wait for init


def test_few_workers_start_no_forkserver():
    before = set(psutil.Process().children())
    with Executor(max_workers=DIRECT_STARTS, block_allocation=True) as exe:
        pids = pids_of(exe, DIRECT_STARTS)
        assert {child.pid for child in set(psutil.Process().children()) - before} == pids


def test_workers_added_later_are_forked():
    with Executor(max_workers=1, block_allocation=True) as exe:
        exe.max_workers = DIRECT_STARTS + 2
        assert len(forked_among(pids_of(exe, DIRECT_STARTS + 2))) == 2


def test_fork_gets_current_environment_and_thread_count(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_TEST_CURRENT", "before")
    with Executor(max_workers=DIRECT_STARTS + 1, block_allocation=True, threads_per_core=3) as exe:
        pids_of(exe, DIRECT_STARTS + 1)
        monkeypatch.setenv("PYMPIPOOL_TEST_CURRENT", "after")
        exe.max_workers = DIRECT_STARTS + 2
        pids_of(exe, DIRECT_STARTS + 2)
        seen = set()
        while len(seen) < 2:
            calls = [exe.submit(current_environment) for _ in range(DIRECT_STARTS + 2)]
            seen |= {call.result() for call in calls}
        assert seen == {("before", "3"), ("after", "3")}


def current_environment():
    time.sleep(0.02)
    return os.environ["PYMPIPOOL_TEST_CURRENT"], os.environ["OMP_NUM_THREADS"]


@pytest.fixture(params=["pidfd", "no pidfd"])
def pidfd(request, monkeypatch):
    """With pidfds, and where the system has none."""
    if request.param == "no pidfd":
        monkeypatch.setattr("pympipool._util.exit_codes.open_pidfd", lambda pid: None)


def test_workers_survive_their_forkserver(pidfd, gate):
    with Executor(max_workers=DIRECT_STARTS + 2, block_allocation=True) as exe:
        pids = pids_of(exe, DIRECT_STARTS + 2)
        running = [exe.submit(hold_at, gate.path) for _ in range(DIRECT_STARTS + 2)]
        gate.wait_until_begun(DIRECT_STARTS + 2)
        forkserver_of(pids).kill()
        gate.open(DIRECT_STARTS + 2)
        assert {call.result() for call in running} == pids
        assert pids_of(exe, DIRECT_STARTS + 2) == pids
    assert not any(is_alive(pid) for pid in pids)


def test_worker_without_forkserver_is_replaced_when_it_dies(pidfd, gate):
    with Executor(max_workers=DIRECT_STARTS + 1, block_allocation=True) as exe:
        pids = pids_of(exe, DIRECT_STARTS + 1)
        (forked,) = forked_among(pids)
        forkserver = forkserver_of(pids)
        running = [exe.submit(hold_at, gate.path) for _ in range(DIRECT_STARTS + 1)]
        gate.wait_until_begun(DIRECT_STARTS + 1)
        forkserver.kill()
        time.sleep(0.1)  # the master notices the end of the forkserver meanwhile; if not yet, the test covers less
        os.kill(forked, signal.SIGTERM)
        wait_until(lambda: any(call.done() for call in running))
        gate.open(DIRECT_STARTS)
        (error,) = [call.exception() for call in running if call.exception() is not None]
        assert isinstance(error, WorkerDied)
        assert error.pid == forked
        assert error.exit_code in (None, -signal.SIGTERM)  # before Linux 6.15 only its parent knows
        (replacement,) = pids_of(exe, DIRECT_STARTS + 1) - pids
        assert psutil.Process(replacement).ppid() not in (os.getpid(), forkserver.pid)


def test_worker_without_forkserver_can_be_stopped():
    with Executor(max_workers=1, block_allocation=False, run_time_max=2) as exe:
        call = exe.submit(hold, 60)
        while not call.running():
            time.sleep(0.01)
        (worker,) = [worker["pid"] for worker in exe.info["workers"]]
        psutil.Process(worker).parent().kill()
        assert isinstance(call.exception(), TimeoutError)
        assert exe.submit(hold, 0).result() != worker
        assert not is_alive(worker)


def test_spawn_method_forks_no_worker(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    with Executor(max_workers=DIRECT_STARTS + 2, block_allocation=True) as exe:
        assert forked_among(pids_of(exe, DIRECT_STARTS + 2)) == set()


def test_several_ranks_are_refused():
    with pytest.raises(ValueError, match=r"1 rank, not 2; .*MpiexecSpawner"):
        HybridSpawner().start(LaunchRequest(1, ranks=2))


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_failed_start_leaks_no_descriptors(monkeypatch):
    """Otherwise each failed start would use up some of the last descriptors."""
    spawner = HybridSpawner()
    monkeypatch.setattr(spawner, "_direct_starts_left", 0)
    request = LaunchRequest(number=1, environment={"PYMPIPOOL_PATH": package_folder()})
    first = spawner.start(request)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(soft) if not is_open(number)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))  # enough for two and a half of its pipes
        with pytest.raises((OSError, WorkerStartError)):
            spawner.start(request)
        assert not any(map(is_open, free[:5]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        first.kill()
        first.wait(60)
        first.close()
        spawner.close()


def segments():
    """Descriptors of shared memory that this process has open."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("pympipool" in link for link in links)


@pytest.mark.parametrize("block_allocation", [False, True])
def test_start_error_holds_no_descriptors(monkeypatch, block_allocation):
    def refuse(_spawner, request):
        raise WorkerStartError("no") from OSError("nothing left")

    for spawner in (ForkserverSpawner, LocalSpawner):
        monkeypatch.setattr(spawner, "start", refuse)
    monkeypatch.setattr(block_pool, "START_ATTEMPTS", 2)
    gc.disable()
    try:
        before = segments()
        with Executor(max_cores=1, block_allocation=block_allocation) as exe:
            error = exe.submit(pow, 2, 3).exception(60)
        del exe
        assert segments() <= before
        assert "nothing left" in str(error.__cause__)
    finally:
        gc.enable()
