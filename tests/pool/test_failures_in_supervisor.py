"""Whatever fails in the thread of the supervisor, for lack of memory for example: calls end, and executors go on."""

from __future__ import annotations

import os
import threading

import psutil
import pytest

from pympipool import Executor
from pympipool._util import subprocesses
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import square
from support.supervisor_failures import failing_everywhere
from support.waiting import wait_until

LIMIT_S = 60.0


def answer(exe, call):
    """Return the result of a call; None if it has failed with its worker or for lack of memory."""
    try:
        return call.result(LIMIT_S)
    except (WorkerDied, WorkerStartError, MemoryError):
        return None


def use(**options):
    """Use an executor in every way that the supervisor has a part in; all calls must end, and at last right."""
    exe = Executor(backend="mpi", max_workers=1, **options)
    calls = [exe.submit(square, 2), exe.submit(os._exit, 3), exe.submit(square, 3)]
    assert answer(exe, calls[0]) in (4, None)
    assert answer(exe, calls[1]) is None
    assert answer(exe, calls[2]) in (9, None)
    assert 16 in (answer(exe, exe.submit(square, 4)) for _ in range(4))
    exe.shutdown()
    assert not exe._engine.pool.loop.thread.is_alive()


@pytest.mark.parametrize("block_allocation", [True, False])
def test_failing_supervisor_loses_no_call(block_allocation):
    use(block_allocation=block_allocation)
    subprocesses.reap_later()
    children = {child.pid for child in psutil.Process().children()}
    for places in failing_everywhere(lambda: use(block_allocation=block_allocation), step=11):
        subprocesses.reap_later()
        wait_until(lambda: {child.pid for child in psutil.Process().children()} <= children)
        assert not [one for one in threading.enumerate() if one.name == "pympipool_supervisor"], places
