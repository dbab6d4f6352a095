"""Times of other hosts: workers that reach the master over TCP, and workers that have another clock."""

import functools
import subprocess
import sys

import pytest

from pympipool import Executor, trace
from pympipool.backends.local.backend import LocalBackend
from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.registry import BACKENDS
from pympipool.diagnostics.tracing.collect import align_clocks
from pympipool.diagnostics.tracing.timeline import Call, Worker
from support.calls import sleep_and_return, square
from support.loopback_tcp import LoopbackTcpBackend

MS = 1_000_000
AHEAD_S = 100_000
"""Seconds by which the workers' clock is ahead."""

OTHER_CLOCK = ["unshare", "--time", f"--monotonic={AHEAD_S}"]
"""Command that runs another one with a different monotonic clock, as on another host."""


@functools.cache
def time_namespace_error():
    command = [*OTHER_CLOCK, sys.executable, "-c", "import time; print(time.monotonic())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 and float(done.stdout) > AHEAD_S else done.stderr


class OtherClockBackend(LocalBackend):
    """Local workers with another clock."""

    name = "other clock"

    def for_block(self, resources):
        spawner = LocalSpawner()
        spawner._command = [*OTHER_CLOCK, *spawner._command]
        return spawner


def assert_in_order(call):
    times = [call.submitted_ns, call.ready_ns, call.sent_ns, call.started_ns, call.ended_ns, call.received_ns]
    assert times == sorted(times)


@pytest.mark.parametrize("block_allocation", [True, False])
def test_all_times_arrive_over_tcp(monkeypatch, block_allocation):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    with trace() as seen, Executor(max_workers=1, backend="tcp", block_allocation=block_allocation) as exe:
        assert exe.submit(sleep_and_return, 0.02, 1).result() == 1
        assert list(exe.map(sleep_and_return, [0.002] * 4, chunksize=4)) == [None] * 4
    one, batch = seen.timeline.calls
    for call in (one, batch):
        assert_in_order(call)
    assert one.run_ns >= 20 * MS
    assert len(batch.items_ns) == 4
    assert [worker.clock_offset_ns for worker in seen.timeline.workers if worker.number == one.worker] == [0]


def test_offset_of_another_clock_is_corrected(monkeypatch):
    if time_namespace_error():
        pytest.skip(f"no time namespaces here ({time_namespace_error()}): run as root, on Linux 5.6 or later")
    monkeypatch.setitem(BACKENDS, "other clock", OtherClockBackend)
    with trace() as seen, Executor(max_workers=2, backend="other clock", block_allocation=True) as exe:
        for _ in range(20):
            exe.submit(square, 2).result()
        exe.submit(sleep_and_return, 0.05).result()
        assert list(exe.map(sleep_and_return, [0.002] * 4, chunksize=4)) == [None] * 4
    for worker in seen.timeline.workers:
        assert abs(worker.clock_offset_ns / 1e9 + AHEAD_S) < 1
        assert 0 < worker.clock_uncertainty_ns < 50 * MS
    *_, long, batch = seen.timeline.calls
    for call in seen.timeline.calls:
        assert_in_order(call)
        assert 0 <= call.started_ns <= call.ended_ns <= seen.timeline.duration_ns
    assert long.run_ns >= 50 * MS
    assert batch.started_ns <= batch.items_ns[0] <= batch.items_ns[-1] <= batch.ended_ns
    report = seen.report()
    assert "The clocks of" in report


def make_call(sent, started, ended, received, **more):
    return Call(1, "f", 1, 1, 1, "returned", sent, sent, sent, started, ended, received, **more)


def test_narrowest_bounds_of_all_calls_give_offset():
    workers = {1: Worker(1, 1, (("far", 7),), 0, 0)}
    calls = [make_call(100, 1100, 1200, 900), make_call(1000, 1520, 1530, 1040), make_call(2000, 2590, 2600, 2110)]
    align_clocks(workers, calls)
    assert (workers[1].clock_offset_ns, workers[1].clock_uncertainty_ns) == (-505, 15)  # between -520 and -490
    assert [(call.started_ns, call.ended_ns) for call in calls] == [(595, 695), (1015, 1025), (2085, 2095)]


def test_ranks_on_other_hosts_run_within_call():
    workers = {1: Worker(1, 1, (("here", 7), ("far", 8)), 0, 0)}
    calls = [make_call(100, 110, 190, 200, ranks_ns=((115, 180), (9_000_120, 9_000_185)))]
    align_clocks(workers, calls)
    assert workers[1].clock_offset_ns == 0
    here, far = calls[0].ranks_ns
    assert here == (115, 180)
    assert 110 <= far[0] <= far[1] <= 190
    assert far[1] - far[0] == 65
    assert workers[1].clocks == (("far", -9_000_002, 8),)  # between -9 000 010 and -8 999 995 (rounded)


def test_rank_on_masters_host_narrows_clock_bounds():
    """Messages take longer in one direction than in the other, so the middle of rank 0's own bounds would be wrong."""
    workers = {1: Worker(1, 1, (("far", 7), ("here", 8)), 0, 0)}
    calls = [make_call(100, 9_000_110, 9_000_190, 900, ranks_ns=((9_000_112, 9_000_188), (115, 180)))]
    align_clocks(workers, calls)
    assert (workers[1].clock_offset_ns, workers[1].clock_uncertainty_ns) == (
        -9_000_002,
        8,
    )  # between -9 000 010 and -8 999 995
    assert workers[1].clocks == (("here", 0, 0),)
    assert calls[0].ranks_ns == ((110, 186), (115, 180))
    assert (calls[0].started_ns, calls[0].ended_ns) == (108, 188)
