"""`executor.max_workers = n` with flux: jobs are started and ended, also those that still wait in the queue."""

from __future__ import annotations

import pytest

from pympipool import Executor
from support.calls import hold, pid, square

pytestmark = pytest.mark.usefixtures("job_each")

GIVEN = pytest.mark.parametrize("given", [True, False], ids=["FluxExecutor", "own"])


@pytest.fixture
def make_executor(request, opened):
    def make(given, **parameters):
        executor = request.getfixturevalue("flux_executor") if given else None
        opened.append(Executor(backend="flux", executor=executor, **parameters))
        return opened[-1]

    return make


@GIVEN
def test_resizing_starts_and_ends_one_job_per_worker(instance, make_executor, given):
    exe = make_executor(given, max_workers=1, block_allocation=True)
    instance.wait_for_jobs("R", 1)
    for number in (4, 2, 5, 1):
        exe.max_workers = number
        assert exe.submit(square, number).result() == number**2
        instance.wait_for_jobs("R", number)
        assert len(instance.active_jobs()) == number


@GIVEN
def test_shrinking_cancels_queued_jobs_first(one_broker, make_executor, gate, given):
    exe = make_executor(given, max_workers=1, threads_per_core=one_broker.cores, block_allocation=True)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    exe.max_workers = 3
    one_broker.wait_for_jobs("S", 2)
    later = [exe.submit(pid) for _ in range(5)]
    exe.max_workers = 1
    one_broker.wait_for_jobs("S", 0)
    gate.open()
    assert {call.result() for call in later} == {held.result()}
    assert len(one_broker.wait_for_jobs("R")) == 1


def test_queued_worker_replaces_a_cancelled_one(one_broker, make_executor):
    exe = make_executor(False, max_workers=1, threads_per_core=one_broker.cores, block_allocation=True)
    first = exe.submit(pid).result()
    exe.max_workers = 2
    (waiting,) = one_broker.wait_for_jobs("S")
    one_broker.run("cancel", *one_broker.wait_for_jobs("R"))
    assert exe.submit(pid).result() != first
    assert one_broker.wait_for_jobs("R") == [waiting]


@GIVEN
def test_max_workers_limits_parallel_jobs(instance, make_executor, gate, given):
    exe = make_executor(given, max_workers=1)
    calls = [exe.submit(hold, gate.path) for _ in range(4)]
    gate.wait_until_begun()
    exe.max_workers = 3
    gate.wait_until_begun(2)
    assert len(instance.wait_for_jobs("R", 3)) == 3
    exe.max_workers = 1
    gate.open(3)
    gate.wait_until_begun()
    assert len(instance.wait_for_jobs("R", 1)) == 1
    gate.open()
    assert len({call.result() for call in calls}) == 4
