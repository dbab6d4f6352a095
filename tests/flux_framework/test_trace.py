"""`pympipool.trace` of calls that get a job each, and of ranks on two brokers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jsonschema
import pytest

from pympipool import Executor, trace
from pympipool.diagnostics.tracing.load import read
from support.calls import add, fail, square
from support.trace_events import SCHEMA, check_nesting

pytestmark = pytest.mark.usefixtures("job_each")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.json"


def check(file: Path, seen) -> None:
    content = json.loads(file.read_text())
    jsonschema.validate(content, SCHEMA)
    check_nesting(content["traceEvents"])
    assert read(file) == seen.timeline


def assert_in_order(call):
    times = [call.submitted_ns, call.ready_ns, call.sent_ns, call.started_ns, call.ended_ns, call.received_ns]
    assert None not in times
    assert times == sorted(times)


def test_each_job_is_a_worker_of_the_trace(instance, file):
    with trace(file) as seen, Executor(max_cores=2, backend="flux") as exe:
        first = exe.submit(square, 2)
        second = exe.submit(add, first, y=1)
        assert second.result() == 5
        assert isinstance(exe.submit(fail).exception(), ValueError)
    check(file, seen)
    calls = seen.timeline.calls
    assert [(call.name, call.outcome) for call in calls] == [
        ("square", "returned"),
        ("add", "returned"),
        ("fail", "error"),
    ]
    assert calls[1].inputs == (1,)
    workers = {worker.number: worker for worker in seen.timeline.workers}
    assert len({call.worker for call in calls}) == 3
    for call in calls:
        assert_in_order(call)
        assert workers[call.worker].host == os.uname().nodename
        assert workers[call.worker].started_ns <= workers[call.worker].ready_ns <= call.sent_ns
    (info,) = [executor.info for executor in seen.timeline.executors]
    assert info["backend"] == "flux"


@pytest.mark.mpi
def test_ranks_of_two_brokers_have_their_times(two_brokers, file):
    ranks = two_brokers.cores + 1
    parameters = {"max_cores": ranks, "cores_per_worker": ranks, "backend": "flux", "block_allocation": True}
    with trace(file) as seen, Executor(**parameters) as exe:
        assert exe.submit(os.getenv, "FLUX_TASK_RANK").result() == [str(rank) for rank in range(ranks)]
        assert exe.submit(square, 3).result() == [9] * ranks
    check(file, seen)
    (worker,) = seen.timeline.workers
    assert len({pid for _, pid in worker.ranks}) == ranks
    for call in seen.timeline.calls:
        assert_in_order(call)
        assert len(call.ranks_ns) == ranks
        assert all(call.started_ns <= begun <= ended <= call.ended_ns for begun, ended in call.ranks_ns)


def test_trace_has_time_in_the_queue(one_broker, file):
    """Another job occupies all cores for a while."""
    job = one_broker.run("submit", "-n1", f"-c{one_broker.cores}", "sleep", "1000").strip()
    try:
        with trace(file) as seen, Executor(max_cores=1, backend="flux") as exe:
            call = exe.submit(square, 2)
            begin_ns = time.monotonic_ns()
            one_broker.wait_for_jobs("S")
            waited_ns = time.monotonic_ns() - begin_ns
            one_broker.run("cancel", job)
            assert call.result() == 4
    finally:
        one_broker.run("cancel", job, check=False)
    check(file, seen)
    (told,) = seen.timeline.calls
    (worker,) = seen.timeline.workers
    assert told.submitted_ns <= worker.started_ns < worker.ready_ns <= told.sent_ns
    assert told.sent_ns - told.submitted_ns > waited_ns
