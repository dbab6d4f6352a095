"""Records of real calls by `pympipool.trace`, in both modes, and its file."""

import json
import os
import socket
import time
from concurrent.futures import CancelledError
from itertools import pairwise

import jsonschema
import pytest

import pympipool
from pympipool import Executor, share, trace
from pympipool.diagnostics.tracing.load import read
from pympipool.diagnostics.tracing.report import format_report
from pympipool.errors import SerializationError, WorkerDied
from support.calls import add, echo, fail, hold, sleep_and_return, square
from support.timing import best
from support.trace_events import SCHEMA, check_nesting

pytestmark = [
    pytest.mark.anywhere,
    pytest.mark.only_at(
        "this machine", "flux", reason="test_clocks.py and slurm/test_two_hosts.py have traces of other hosts"
    ),
]

MS = 1_000_000


def die():
    os._exit(3)


def named(timeline, name):
    return [call for call in timeline.calls if call.name == name]


def assert_in_order(call):
    times = [call.submitted_ns, call.ready_ns, call.sent_ns, call.started_ns, call.ended_ns, call.received_ns]
    assert None not in times
    assert times == sorted(times)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.json"


@pytest.fixture
def check_file(file):
    """check_file(trace): the file of a trace has valid trace events and the same timeline. Returns the events."""

    def check(seen):
        content = json.loads(file.read_text())
        jsonschema.validate(content, SCHEMA)
        check_nesting(content["traceEvents"])
        assert read(file) == seen.timeline
        return content["traceEvents"]

    return check


def test_each_call_is_recorded(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor(2)
        assert [future.result() for future in [exe.submit(square, n) for n in range(7)]] == [n * n for n in range(7)]
        exe.submit(add, 1, y=2).result()
        exe.shutdown()
    events = check_file(seen)
    calls = seen.timeline.calls
    assert [call.name for call in calls] == ["square"] * 7 + ["add"]
    assert [call.number for call in calls] == list(range(1, 9))
    assert {call.outcome for call in calls} == {"returned"}
    assert {call.size for call in calls} == {1}
    for call in calls:
        assert_in_order(call)
        assert call.inputs is None
    workers = {worker.number: worker for worker in seen.timeline.workers}
    for call in calls:
        worker = workers[call.worker]
        assert (worker.host, worker.clock_offset_ns) == (socket.gethostname(), 0)
        assert worker.started_ns <= worker.ready_ns <= call.sent_ns
        assert call.received_ns <= worker.gone_ns <= seen.timeline.duration_ns
    call_events = [event for event in events if event.get("cat") == "call"]
    assert {event["args"]["host"] for event in call_events} == {socket.gethostname()}
    assert {event["args"]["worker"] for event in call_events} <= set(workers)
    assert seen.timeline.host == socket.gethostname()
    assert seen.timeline.pid == os.getpid()


def test_calls_of_a_worker_do_not_overlap(make_executor):
    with trace() as seen:
        exe = make_executor(2)
        assert [future.result() for future in [exe.submit(sleep_and_return, 0.02, n) for n in range(6)]] == list(
            range(6)
        )
        exe.shutdown()
    assert all(call.run_ns >= 20 * MS for call in seen.timeline.calls)
    for worker in seen.timeline.workers:
        runs = sorted((call.started_ns, call.ended_ns) for call in seen.timeline.calls if call.worker == worker.number)
        assert all(ended <= begun for (_, ended), (begun, _) in pairwise(runs))
    assert seen.timeline.duration_ns >= 60 * MS


def test_outcome_of_call_that_raises(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        assert isinstance(exe.submit(fail).exception(), ValueError)
        exe.submit(square, 1).result()
        exe.shutdown()
    check_file(seen)
    assert [(call.name, call.outcome) for call in seen.timeline.calls] == [("fail", "error"), ("square", "returned")]
    assert_in_order(seen.timeline.calls[0])


def test_outcome_of_unpicklable_call(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        with pytest.raises(SerializationError):
            exe.submit(echo, (n for n in "ab")).result()
        exe.shutdown()
    check_file(seen)
    [call] = seen.timeline.calls
    assert (call.name, call.outcome, call.worker, call.started_ns) == ("echo", "lost", 0, None)
    assert call.received_ns >= call.submitted_ns


def test_cancelled_calls_have_no_run_time(make_executor, gate, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        held = exe.submit(hold, gate.path)
        gate.wait_until_begun()
        waiting = [exe.submit(square, n) for n in range(5)]
        assert all(future.cancel() for future in waiting)
        gate.open()
        held.result()
        exe.shutdown()
    check_file(seen)
    assert [call.outcome for call in seen.timeline.calls] == ["returned"] + ["cancelled"] * 5
    assert all(call.started_ns is call.ended_ns is None for call in named(seen.timeline, "square"))


def test_outcome_of_call_whose_worker_died(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        with pytest.raises(WorkerDied):
            exe.submit(die).result()
        exe.submit(square, 1).result()
        exe.shutdown()
    check_file(seen)
    dead, after = seen.timeline.calls
    assert (dead.outcome, dead.ended_ns) == ("lost", None)
    assert dead.sent_ns <= dead.started_ns <= dead.received_ns
    assert after.worker != dead.worker != 0
    assert after.outcome == "returned"


def test_inputs_of_calls_are_recorded(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor(2)
        first, second = exe.submit(sleep_and_return, 0.01, 1), exe.submit(sleep_and_return, 0.02, 2)
        both = exe.submit(add, first, second)
        assert exe.submit(add, both, 1).result() == 4
        exe.shutdown()
    events = check_file(seen)
    one, two, both, last = seen.timeline.calls
    assert (one.inputs, both.inputs, last.inputs) == (None, (1, 2), (3,))
    assert both.ready_ns >= max(one.received_ns, two.received_ns)
    assert last.ready_ns >= both.received_ns
    assert arrows_of(events) == [(1, 3), (2, 3), (3, 4)]


def arrows_of(events):
    """Return the numbers of source and target call of each arrow: the calls around its ends, on the same thread."""
    ends = {}
    for event in events:
        if event.get("cat") == "dependency":
            ends.setdefault(event["id"], {})[event["ph"]] = event
    calls = [event for event in events if event.get("cat") == "call" and event["ph"] == "X"]

    def call_around(end):
        (number,) = (
            call["args"]["call"]
            for call in calls
            if (call["pid"], call["tid"]) == (end["pid"], end["tid"])
            and call["ts"] <= end["ts"] < call["ts"] + call["dur"]
        )
        return number

    return sorted((call_around(arrow["s"]), call_around(arrow["f"])) for arrow in ends.values())


def test_counters_span_the_whole_trace(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        assert exe.submit(square, 2).result() == 4
    counted = [event for event in check_file(seen) if event["ph"] == "C"]
    assert (counted[0]["ts"], counted[-1]["ts"]) == (0, seen.timeline.duration_ns / 1000)
    assert max(event["args"]["running"] for event in counted) == 1
    assert counted[-1]["args"] == {"waiting": 0, "running": 0}


def test_call_without_its_input_has_no_run_time(make_executor, gate, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        raised = exe.submit(fail)
        follows = exe.submit(add, raised, 1)
        assert isinstance(follows.exception(), ValueError)
        held = exe.submit(hold, gate.path)
        gate.wait_until_begun()
        waits = exe.submit(square, 2)
        follows = exe.submit(echo, waits)
        assert waits.cancel()
        with pytest.raises(CancelledError):
            follows.result()
        gate.open()
        held.result()
        exe.shutdown()
    check_file(seen)
    outcomes = [(call.name, call.outcome, call.inputs) for call in seen.timeline.calls]
    assert outcomes == [
        ("fail", "error", None),
        ("add", "lost", (1,)),
        ("hold", "returned", None),
        ("square", "cancelled", None),
        ("echo", "cancelled", (4,)),
    ]


def test_long_calls_of_a_batch_have_times(make_executor, file, check_file):
    with trace(file) as seen:
        exe = make_executor(2)
        assert list(exe.map(sleep_and_return, [0.002] * 10, range(10), chunksize=4)) == list(range(10))
        assert list(exe.map(abs, range(1000), chunksize=50)) == list(range(1000))
        exe.shutdown()
    events = check_file(seen)
    long, short = named(seen.timeline, "sleep_and_return"), named(seen.timeline, "abs")
    assert [call.size for call in long] == [4, 4, 2]
    for call in long:
        times = [call.started_ns, *call.items_ns, call.ended_ns]
        assert times == sorted(times)
        assert all(after - before >= 2 * MS for before, after in pairwise(times[:-1]))
        assert len(call.items_ns) == call.size
    assert [call.size for call in short] == [50] * 20
    assert any(call.items_ns == () for call in short)  # not all: a batch that has no core for a while seems to be long
    items = sum(len(call.items_ns) for call in seen.timeline.calls)
    assert sum(event.get("cat") == "item" for event in events) == items >= 10


@pytest.mark.alone
def test_map_with_adaptive_batches_is_recorded(make_block_executor):
    exe = make_block_executor(2)

    def messages():
        with trace() as seen:
            assert sum(exe.map(abs, range(5000))) == sum(range(5000))
        assert sum(call.size for call in seen.timeline.calls) == 5000
        return len(seen.timeline.calls)

    assert best(messages, 500) < 500


def test_batch_has_times_before_its_exception(make_block_executor):
    with trace() as seen:
        exe = make_block_executor()
        with pytest.raises(TypeError):
            list(exe.map(sleep_and_return, [0.001, 0.001, "x", 0.001], chunksize=4))
    [call] = seen.timeline.calls
    assert len(call.items_ns) == 2


def test_batch_of_earlier_trace_is_not_recorded(make_block_executor, gate):
    exe = make_block_executor()
    with trace():
        held = exe.submit(hold, gate.path)
        gate.wait_until_begun()
        results = exe.map(sleep_and_return, [0.001] * 3, chunksize=3)
    with trace() as seen:
        gate.open()
        held.result()
        assert list(results) == [None] * 3
        exe.submit(square, 3).result()
    [call] = seen.timeline.calls
    assert (call.name, call.items_ns) == ("square", ())


@pytest.mark.mpi
def test_all_ranks_of_mpi_worker_have_times(file, check_file):
    def work(seconds):
        from mpi4py import MPI

        time.sleep(seconds * (1 + MPI.COMM_WORLD.Get_rank()))

    with trace(file) as seen, Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
        for _ in range(3):
            exe.submit(work, 0.01).result()
    events = check_file(seen)
    [worker] = seen.timeline.workers
    assert [host for host, _ in worker.ranks] == [socket.gethostname()] * 2
    assert len({pid for _, pid in worker.ranks}) == 2
    for call in seen.timeline.calls:
        assert_in_order(call)
        assert len(call.ranks_ns) == 2
        for rank, (start_ns, ended_ns) in enumerate(call.ranks_ns):
            assert call.started_ns <= start_ns <= ended_ns <= call.ended_ns
            assert ended_ns - start_ns >= 10 * (1 + rank) * MS
    assert sum(event.get("cat") == "rank" for event in events) == 6


def test_several_executors_are_recorded_separately(make_executor, file, check_file):
    before = make_executor()
    before.submit(square, 0).result()
    with trace(file) as seen:
        inside = make_executor(2)
        before.submit(square, 1).result()
        inside.submit(add, 1).result()
        inside.shutdown()
        before.submit(square, 3).result()
    check_file(seen)
    assert [(call.executor, call.name) for call in seen.timeline.calls] == [(1, "square"), (2, "add"), (1, "square")]
    assert [executor.info["max_workers"] for executor in seen.timeline.executors] == [1, 2]


def test_input_from_another_executor_is_recorded(make_executor):
    with trace() as seen:
        one, other = make_executor(), make_executor()
        assert other.submit(square, one.submit(add, 2)).result() == 4
    calls = {call.name: call for call in seen.timeline.calls}
    assert calls["square"].inputs == (calls["add"].number,)
    assert calls["square"].executor != calls["add"].executor


def test_only_calls_submitted_during_trace_are_recorded(make_executor, gate):
    exe = make_executor()
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    before = exe.submit(square, 1)
    with trace() as seen:
        gate.open()
        held.result()
        before.result()
        exe.submit(add, 1).result()
    exe.submit(square, 2).result()
    assert [call.name for call in seen.timeline.calls] == ["add"]


def test_running_calls_are_unfinished_after_the_trace(make_executor, gate, file, check_file):
    with trace(file) as seen:
        exe = make_executor()
        held = exe.submit(hold, gate.path, 5)
        gate.wait_until_begun()
        waits = exe.submit(square, 2)
        blocked = exe.submit(add, held, 1)
    check_file(seen)
    gate.open()
    assert (held.result(), waits.result(), blocked.result()) == (5, 4, 6)
    running, waiting, blocked = seen.timeline.calls
    assert {call.outcome for call in seen.timeline.calls} == {"unfinished"}
    assert all(call.ended_ns is call.received_ns is None for call in seen.timeline.calls)
    assert running.started_ns is not None
    assert waiting.started_ns is None
    assert (blocked.inputs, blocked.ready_ns) == ((running.number,), None)


def test_calls_beyond_the_limit_are_counted(make_block_executor):
    with trace(max_calls=10) as seen:
        exe = make_block_executor()
        for future in [exe.submit(square, n) for n in range(25)]:
            future.result()
    assert (len(seen.timeline.calls), seen.timeline.dropped) == (10, 15)


def test_more_calls_than_one_chunk_of_records(make_block_executor):
    with trace() as seen:
        exe = make_block_executor(2)
        for future in [exe.submit(square, n) for n in range(20_000)]:
            future.result()
    assert len(seen.timeline.calls) == 20_000
    assert all(call.outcome == "returned" for call in seen.timeline.calls)
    assert [call.number for call in seen.timeline.calls] == list(range(1, 20_001))


def test_shared_data_of_trace_are_counted(make_executor, file, check_file):
    before = share(bytes(8_000_000))
    with make_executor() as exe:
        exe.submit(len, before).result()
        assert before.nbytes >= 8_000_000
        del before
        with trace(file) as seen:
            for _ in range(3):
                one = share(bytes(1_000_000))
                assert exe.submit(len, one).result() == 1_000_000
                del one  # no two at a time
    check_file(seen)
    assert 1_000_000 <= seen.timeline.shared_bytes < 1_100_000
    assert "shared data: at most 1 MB at a time" in format_report(seen.summary())


def test_public_name_is_exported():
    assert "trace" in pympipool.__all__
    assert pympipool.trace is trace
