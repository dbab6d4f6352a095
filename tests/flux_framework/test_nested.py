"""Calls that have an executor of their own, inside a job of flux."""

from __future__ import annotations

import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import hold

pytestmark = pytest.mark.usefixtures("job_each")

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


@pytest.fixture
def make_executor(opened):
    def make(**parameters):
        opened.append(Executor(max_workers=1, backend="flux", **parameters))
        return opened[-1]

    return make


def squares(numbers, **parameters):
    from pympipool import Executor

    with Executor(**parameters) as inner:
        return inner.info["backend"], [call.result() for call in [inner.submit(pow, number, 2) for number in numbers]]


def hold_inside(gate, cores):
    from pympipool import Executor

    with Executor(max_workers=1, threads_per_core=cores, backend="flux") as inner:
        waiting = inner.submit(abs, -1)
        return hold(gate), waiting.result()


@MODES
def test_nested_calls_are_jobs_of_the_instance(instance, make_executor, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    call = exe.submit(squares, [1, 2, 3], max_workers=2, block_allocation=block_allocation)
    assert call.result() == ("flux", [1, 4, 9])


@MODES
def test_nested_calls_on_own_cores_need_no_job(one_broker, make_executor, block_allocation):
    """No job could start, because the waiting call occupies all cores."""
    exe = make_executor(threads_per_core=one_broker.cores, block_allocation=block_allocation)
    assert exe.submit(squares, [1, 2, 3], max_workers=2, backend="mpi").result() == ("mpi", [1, 4, 9])


def test_queued_jobs_of_a_call_end_with_it(one_broker, make_executor, gate):
    exe = make_executor(block_allocation=True)
    call = exe.submit(hold_inside, gate.path, one_broker.cores)
    gate.wait_until_begun()
    one_broker.wait_for_jobs("S")
    one_broker.run("cancel", *one_broker.wait_for_jobs("R"))
    assert isinstance(call.exception(timeout=60), WorkerDied)
    one_broker.wait_for_jobs("S", 0)
