"""Calls of a worker of several ranks, each of which answers on its own ring: without processes, over a real link."""

import os
import struct
import threading
import time

import pytest

from pympipool._core import ring
from pympipool._core.channel import Channel
from pympipool._core.trace_buffer import RECORD_FORMAT, Recorder
from pympipool.serialization import payload
from pympipool.serialization.exceptions import STATE_LOST_NOTE, dump_exception
from support.answering_ranks import LIMIT_S, AnsweringRanks

RANKS = 3
LARGE = 3 * ring.RANKS_RING_CAPACITY
NOTE = STATE_LOST_NOTE.encode()


@pytest.fixture
def master():
    return AnsweringRanks(RANKS)


def waits(channel):
    return channel.receive(0.0) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_values_are_joined_in_rank_order(master, order):
    for number in range(5):
        future = master.submit(number)
        for rank in order:
            assert not future.done()
            master.answer(rank, (number, rank))
        assert future.result(LIMIT_S) == [(number, rank) for rank in range(RANKS)]


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_ranks_keep_step_with_any_cores(monkeypatch, cores):
    """With a core for each rank they wait for each other in another way."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    master = AnsweringRanks(2)
    ended = [0, 0]
    early = []

    def serve(rank):
        for number in range(300):
            _, call, _, _ = master.ranks[rank].receive(LIMIT_S)
            early.extend(ended[other] for other in (0, 1) if ended[other] < number)
            if number % 7 == rank:
                time.sleep(1e-4)
            ended[rank] += 1
            master.ranks[rank].answer(ring.RESULT, call, payload.dump(number))

    threads = [threading.Thread(target=serve, args=(rank,)) for rank in (0, 1)]
    futures = [master.submit() for _ in range(300)]
    for thread in threads:
        thread.start()
    assert [future.result(LIMIT_S) for future in futures] == [[number] * 2 for number in range(300)]
    for thread in threads:
        thread.join()
    assert early == []


@pytest.mark.parametrize("size", [LARGE, 10 * ring.RANKS_RING_CAPACITY + 13])
@pytest.mark.parametrize("ranks", [2, 9])
def test_large_call_and_its_large_values_arrive(ranks, size):
    """They are larger than the rings, so all sides take turns."""
    import numpy as np

    master = AnsweringRanks(ranks)

    def serve(rank):
        _, call, _, parts = master.ranks[rank].receive(LIMIT_S)
        _, (array,), _ = payload.load(parts)
        array += rank  # private, though all ranks read the same ring
        value = array if rank % 2 == 0 else rank
        master.ranks[rank].answer(ring.RESULT, call, payload.dump(value))

    threads = [threading.Thread(target=serve, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    values = master.submit(np.zeros(size, dtype="u1")).result(LIMIT_S)
    for thread in threads:
        thread.join()
    for rank, value in enumerate(values):
        assert (value.shape == (size,) and (value == rank).all()) if rank % 2 == 0 else value == rank


def test_empty_answers_leave_value_of_rank_0(master):
    future = master.submit()
    master.answer(0, "mine")
    for rank in (1, 2):
        _, call, _, _ = master.ranks[rank].receive(LIMIT_S)
        master.ranks[rank].answer(ring.RESULT, call, [b""])
    assert future.result(LIMIT_S) == "mine"


def test_no_rank_begins_before_others_ended(master):
    futures = [master.submit(number) for number in range(3)]
    for number in range(3):
        master.answer(1, number)
        assert waits(master.ranks[1])
        master.answer(0, number)
        assert waits(master.ranks[0])
        master.answer(2, number)
        assert futures[number].done()  # one round, which sends the next call
    assert [future.result(LIMIT_S) for future in futures] == [[number] * RANKS for number in range(3)]


def test_call_is_recalled_until_one_rank_begins(master):
    first, second, third = (master.submit(number) for number in range(3))
    for rank in range(RANKS):
        master.answer(rank, rank)
    assert not second.running() or first.result(LIMIT_S)
    master.answer(2, "begun")
    assert not second.cancel()
    assert third.cancel()
    for rank in (0, 1):
        master.answer(rank, "begun")
    assert second.result(LIMIT_S) == ["begun"] * RANKS
    assert all(waits(channel) for channel in master.ranks)


def test_exceptions_of_ranks_are_joined(master):
    future = master.submit()
    master.answer(0, "fine")
    master.fail(1, ValueError("first"))
    master.fail(2, KeyError("second"))
    error = future.exception(LIMIT_S)
    assert type(error) is ValueError
    assert "first" in str(error.__cause__)
    assert "second" in str(error.__cause__)
    assert error.__notes__ == [STATE_LOST_NOTE]


@pytest.mark.parametrize(
    ("places", "diverged"),
    [((b"a", b"a", b"a"), False), ((b"a", b"a", b"b"), True), ((b"", b"", None), False), ((b"a", None, b"a"), True)],
)
def test_ranks_that_diverge_begin_no_call(master, places, diverged):
    future = master.submit(1)
    following = master.submit(2)
    for rank, place in enumerate(places):
        if place is None:
            master.answer(rank, rank)
        else:
            _, call, _, _ = master.ranks[rank].receive(LIMIT_S)
            parts = [*dump_exception(ValueError(rank)), place, NOTE]
            master.ranks[rank].answer(ring.ERROR, call, parts, 5, int.from_bytes(place, "big"))
    error = future.exception(LIMIT_S)
    assert error.args == (0,)
    assert hasattr(error, "__notes__") == diverged
    for channel in master.ranks:
        assert channel.ranks_agree() is not diverged
        assert waits(channel) is diverged
    assert following.cancel() is diverged


def test_note_may_be_empty(master):
    future = master.submit()
    master.answer(0, 0)
    master.answer(1, 1)
    master.fail(2, ValueError("alone"), note=b"")
    assert not hasattr(future.exception(LIMIT_S), "__notes__")


def test_trace_has_the_times_of_all_ranks(master):
    recorder = Recorder(10)
    master.dispatcher.record(recorder)
    future = master.submit()
    for rank, channel in enumerate(master.ranks):
        _, call, _, _ = channel.receive(LIMIT_S)
        assert call & ring.TRACED
        channel.stamps.extend((100 + rank, 200 + rank))
        channel.answer(ring.RESULT, call, payload.dump(rank))
    assert future.result(LIMIT_S) == [0, 1, 2]
    ((*_, stamp_count),) = struct.iter_unpack(RECORD_FORMAT, recorder.records())
    assert stamp_count == 2 * RANKS
    assert list(memoryview(recorder.stamps()).cast("q")) == [100, 200, 101, 201, 102, 202]


@pytest.mark.parametrize("fault", ["another id", "no place"])
def test_nonsense_of_one_rank_ends_the_worker(master, fault):
    future = master.submit()
    for rank in range(RANKS):
        _, call, _, _ = master.ranks[rank].receive(LIMIT_S)
        kind = ring.ERROR if fault == "no place" and rank == 1 else ring.RESULT
        master.ranks[rank].answer(kind, call + (fault == "another id" and rank == 1), payload.dump(0))
    assert not future.done()
    assert master.dispatcher.workers_to_kill() == [(1, False)]


@pytest.mark.parametrize("ranks", [0, ring.RANKS_MAX + 1])
def test_link_has_one_rank_at_least(ranks):
    with pytest.raises(ValueError, match=f"ranks is {ranks}"):
        ring.link_segment(ranks=ranks)


def test_rank_beyond_the_link_is_refused(master):
    with pytest.raises(OSError, match="no link"):
        Channel(ring.link_segment(ranks=2), master.dispatcher.doorbells, 2)
