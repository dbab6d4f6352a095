"""Times that a worker reports, and the dispatcher's records of them; without processes, over a real link."""

import struct
import threading
from time import monotonic_ns

import pytest

from pympipool._core import ring
from pympipool._core.channel import Channel
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool._core.trace_buffer import RECORD_FORMAT, Recorder
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception
from pympipool.worker.batches import SAMPLE_CALLS, run_each

LIMIT_S = 60.0


@pytest.fixture
def corrupted():
    return threading.Event()


@pytest.fixture
def dispatcher(corrupted):
    dispatcher = Dispatcher(payload.load, load_exception, corrupted.set)
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()
    assert dispatcher.join(60)


@pytest.fixture
def worker(dispatcher):
    """The worker's side of a link to the dispatcher."""
    link = ring.link_segment()
    dispatcher.add_worker(1, link)
    return Channel(link, dispatcher.doorbells)


def submit(dispatcher):
    future = Future()
    dispatcher.adopt(future)
    future.function_name = "f"
    dispatcher.submit(future, None, payload.dump_call(0, pow, (2, 3), {}))
    return future


def records(recorder):
    return list(struct.iter_unpack(RECORD_FORMAT, recorder.records()))


def test_calls_request_times_only_while_recording(dispatcher, worker):
    recorder = Recorder(10)
    for is_recorded in (False, True, False):
        dispatcher.record(recorder if is_recorded else None)
        future = submit(dispatcher)
        _, call, _, _ = worker.receive(LIMIT_S)
        assert bool(call & ring.TRACED) is is_recorded
        worker.answer(ring.RESULT, call, payload.dump(8))
        assert future.result(LIMIT_S) == 8
    assert len(records(recorder)) == 1


def test_times_and_stamps_arrive_beside_results(dispatcher, worker):
    recorder = Recorder(10)
    dispatcher.record(recorder)
    large = bytes(5_000_000)  # comes in fragments
    for value, stamps in (("small", []), ("small", [1, 2, 3]), (large, [4]), ("small", [])):
        future = submit(dispatcher)
        _, call, _, _ = worker.receive(LIMIT_S)
        worker.stamps.extend(stamps)
        thread = threading.Thread(target=worker.answer, args=(ring.RESULT, call, payload.dump(value)))
        thread.start()  # a message larger than the ring waits for the dispatcher
        assert future.result(LIMIT_S) == value
        thread.join()
        assert list(worker.stamps) == []
    found = records(recorder)
    assert [record[-1] for record in found] == [0, 3, 1, 0]
    assert struct.unpack("4q", recorder.stamps()) == (1, 2, 3, 4)
    for submitted, ready, sent, _, _, started, ended, received, number, *_ in found:
        times = [submitted, ready, sent, started, ended, received, monotonic_ns()]
        assert times == sorted(times)
        assert number == 1


def test_sizes_of_call_and_result_are_recorded(dispatcher, worker):
    recorder = Recorder(10)
    dispatcher.record(recorder)
    future = submit(dispatcher)
    _, call, _, parts = worker.receive(LIMIT_S)
    answer = payload.dump(b"x" * 1000)
    worker.answer(ring.RESULT, call, answer)
    future.result(LIMIT_S)
    [record] = records(recorder)
    assert record[9:11] == (sum(map(len, parts)), sum(map(len, answer)))


@pytest.mark.parametrize(
    "parts", [[b"x"], [b"x", b""], [b"x", bytes(16)], [b"x", bytes(25)], [b"x", struct.pack("7q", 1, 2, 1, 0, 0, 0, 0)]]
)
def test_answer_without_requested_times_is_corrupt(dispatcher, worker, corrupted, parts):
    dispatcher.record(Recorder(10))
    submit(dispatcher)
    _, call, _, _ = worker.receive(LIMIT_S)
    worker.send(ring.RESULT, call, 5, parts)
    assert corrupted.wait(LIMIT_S)
    assert dispatcher.workers_to_kill() == [(1, False)]


def test_submission_times_are_unique(dispatcher):
    dispatcher.record(Recorder(10))
    futures = [Future() for _ in range(10_000)]
    for future in futures:
        dispatcher.adopt(future)
    times = [future.submitted_ns for future in futures]
    assert times == sorted(set(times))
    assert times[-1] <= monotonic_ns() + 10_000


def test_batch_records_end_of_each_call():
    stamps = []
    ends = []

    def work(number):
        before = monotonic_ns()
        while monotonic_ns() < before + 50_000:
            pass
        ends.append(monotonic_ns())
        return number

    packed = run_each(work, [range(2 * SAMPLE_CALLS)], stamps)
    assert payload.load(packed.parts) == (list(range(2 * SAMPLE_CALLS)), None)
    assert len(stamps) == 2 * SAMPLE_CALLS
    assert all(end <= stamp for end, stamp in zip(ends, stamps, strict=True))
    assert all(stamp <= end for end, stamp in zip(ends[1:], stamps, strict=False))


@pytest.mark.parametrize("stamps", [None, []], ids=["plain", "traced"])
@pytest.mark.parametrize("before", [1, SAMPLE_CALLS + 1])
def test_stop_iteration_ends_a_batch(before, stamps):
    packed = run_each(next, [[*(iter([i]) for i in range(before)), iter([]), iter([-1])]], stamps)
    results, error = payload.load(packed.parts)
    assert results == list(range(before))
    with pytest.raises(RuntimeError, match=r"next\(\) raised StopIteration"):
        raise load_exception(error)


def test_traced_batch_pickles_mutable_results_at_once():
    last = []

    def remember(number):
        last[:] = [number]
        return last

    packed = run_each(remember, [range(2 * SAMPLE_CALLS)], [])
    assert payload.load(packed.parts) == ([[number] for number in range(2 * SAMPLE_CALLS)], None)


def test_untraced_batch_returns_same_results():
    packed = run_each(abs, [[-1, 2]])
    assert payload.load(packed.parts) == ([1, 2], None)
