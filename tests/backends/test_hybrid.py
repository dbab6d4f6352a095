"""Many workers of one core: the first are processes of the master's, further ones forks of a template."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.local.forkserver import ForkserverSpawner
from pympipool.backends.local.hybrid import FRESH, HybridSpawner
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.pool import block_pool
from support.processes import is_alive


def hold(seconds):
    time.sleep(seconds)
    return os.getpid()


def pids_of(exe, count):
    """The process ids of all workers."""
    pids = set()
    while len(pids) < count:
        pids |= {call.result() for call in [exe.submit(hold, 0.02) for _ in range(count)]}
    return pids


def forked_among(pids):
    return {pid for pid in pids if psutil.Process(pid).ppid() != os.getpid()}


def template_of(pids):
    (template,) = {psutil.Process(pid).ppid() for pid in forked_among(pids)}
    return psutil.Process(template)


def test_further_workers_are_forks_of_one_template_which_ends_with_the_executor():
    with Executor(max_workers=FRESH + 4, block_allocation=True) as exe:
        pids = pids_of(exe, FRESH + 4)
        assert len(forked_among(pids)) == 4
        template = template_of(pids)
        assert template.ppid() == os.getpid()
    assert not template.is_running()
    assert not any(map(is_alive, pids))  # a zombie may wait for init


def test_few_workers_need_no_template():
    before = set(psutil.Process().children())
    with Executor(max_workers=FRESH, block_allocation=True) as exe:
        pids = pids_of(exe, FRESH)
        assert {child.pid for child in set(psutil.Process().children()) - before} == pids


def test_workers_that_come_later_are_forks():
    with Executor(max_workers=1, block_allocation=True) as exe:
        exe.max_workers = FRESH + 2
        assert len(forked_among(pids_of(exe, FRESH + 2))) == 2


def test_a_fork_has_the_environment_of_now_and_its_own_threads(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_TEST_OF_NOW", "before")
    with Executor(max_workers=FRESH + 1, block_allocation=True, threads_per_core=3) as exe:
        pids_of(exe, FRESH + 1)
        monkeypatch.setenv("PYMPIPOOL_TEST_OF_NOW", "after")
        exe.max_workers = FRESH + 2
        pids_of(exe, FRESH + 2)
        told = set()
        while len(told) < 2:
            calls = [exe.submit(environment_of_now) for _ in range(FRESH + 2)]
            told |= {call.result() for call in calls}
        assert told == {("before", "3"), ("after", "3")}


def environment_of_now():
    time.sleep(0.02)
    return os.environ["PYMPIPOOL_TEST_OF_NOW"], os.environ["OMP_NUM_THREADS"]


def test_calls_go_on_after_the_template_was_killed():
    """Its workers end with it: nobody is left who would say how they end. Others take their places."""
    with Executor(max_workers=FRESH + 2, block_allocation=True) as exe:
        pids = pids_of(exe, FRESH + 2)
        running = [exe.submit(hold, 0.5) for _ in range(FRESH + 2)]
        forked = forked_among(pids)
        os.kill(template_of(pids).pid, signal.SIGKILL)
        ends = [call.exception() for call in running]
        assert all(end is None or isinstance(end, WorkerDied) for end in ends)
        later = pids_of(exe, FRESH + 2)
        assert len(later - pids) == 2
        assert later & pids == pids - forked


def test_where_one_must_not_fork_all_are_fresh(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    with Executor(max_workers=FRESH + 2, block_allocation=True) as exe:
        assert forked_among(pids_of(exe, FRESH + 2)) == set()


def test_several_ranks_are_not_its_business():
    with pytest.raises(ValueError, match=r"1 rank, not 2; .*MpiexecSpawner"):
        HybridSpawner().start(LaunchRequest(1, ranks=2))


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_too_few_descriptors_for_a_worker_are_given_back(monkeypatch):
    """Each try would keep some of the last ones, until nothing works any more."""
    spawner = HybridSpawner()
    monkeypatch.setattr(spawner, "_left", 0)
    order = LaunchRequest(number=1, environment={"PYMPIPOOL_PATH": os.pathsep.join(sys.path)})
    first = spawner.start(order)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(soft) if not is_open(number)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))  # for two of its pipes and a half
        with pytest.raises((OSError, WorkerStartError)):
            spawner.start(order)
        assert not any(map(is_open, free[:5]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        first.kill()
        first.wait(10)
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
def test_the_error_of_a_worker_that_cannot_be_started_keeps_no_descriptors(monkeypatch, block_allocation):
    def refuse(_spawner, order):
        raise WorkerStartError("no") from OSError("nothing left")

    for spawner in (ForkserverSpawner, LocalSpawner):
        monkeypatch.setattr(spawner, "start", refuse)
    monkeypatch.setattr(block_pool, "START_ATTEMPTS", 2)
    gc.disable()
    try:
        before = segments()
        with Executor(max_cores=1, block_allocation=block_allocation) as exe:
            error = exe.submit(pow, 2, 3).exception(20)
        del exe
        assert segments() == before
        assert "nothing left" in str(error.__cause__)
    finally:
        gc.enable()
