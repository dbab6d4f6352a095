"""What is told of workers that do not get ready."""

from __future__ import annotations

from types import SimpleNamespace

from pympipool._util.clocks import RunningClock
from pympipool._util.service_threads import flush_records
from pympipool.pool.worker_ends import ProcessWatch
from pympipool.pool.worker_handle import State


def test_ranks_that_wait_for_each_other_are_told(caplog):
    timers = []
    loop = SimpleNamespace(call_later=lambda *timer: timers.append(timer))
    worker = SimpleNamespace(
        number=3,
        process=SimpleNamespace(waitable=lambda: None),
        request=SimpleNamespace(ranks=2, connect_timeout_s=60.0),
        connections=["of rank 0", "of rank 1"],
        state=State.STARTING,
        was_killed=False,
        handlers=None,
    )
    ProcessWatch(loop, None, None).check_connected(worker, RunningClock(), is_queued=True)
    ((delay_s, warn, _),) = timers
    assert delay_s == 60.0
    warn()
    flush_records()
    assert "ranks of worker 3 connected 60 s ago and are not ready" in caplog.text
    assert "UCX_NET_DEVICES" in caplog.text
