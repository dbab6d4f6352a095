"""Which calls of a dead worker count as begun: over real links, without processes and dispatcher threads."""

from __future__ import annotations

import pytest

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.future import Future
from pympipool.serialization import payload
from support.link_workers import LIMIT_S, LinkWorkers

CAPACITY = 1 << 16
LARGE = bytes(CAPACITY * 4)
UNBEGUN_ENDS_MAX = 3


@pytest.fixture
def workers():
    workers = LinkWorkers(1, CAPACITY)
    workers.last = 1
    return workers


def submit(workers, argument=None, function=None, attempts=0):
    future = Future()
    workers.dispatcher.adopt(future)
    parts = payload.dump_call(1, print, (argument,), {})
    workers.dispatcher.submit(future, function or workers.function, parts, attempts=attempts)
    return future


def replace(workers):
    """Remove the worker, as after its death, and add another one. Return the futures of the calls that it had begun."""
    begun = workers.dispatcher.remove_dead_worker(workers.last)
    workers.last += 1
    workers.channels = [workers.add(workers.last, CAPACITY)]
    return begun


def test_call_counts_whose_function_was_received(workers):
    first, second = [submit(workers, function=FunctionHandle(number, b"other")) for number in (2, 3)]
    assert workers.channels[0].receive(0)[0] == ring.FUNCTION
    assert replace(workers) == [first]
    assert len(workers.take_all(workers.channels[0])) == 1
    assert not second.done()


@pytest.mark.parametrize("large", ["call", "function"])
def test_call_counts_that_has_arrived_in_part(workers, large):
    if large == "call":
        call = submit(workers, LARGE)
    else:
        call = submit(workers, function=FunctionHandle(2, LARGE))
    behind = submit(workers)
    assert workers.take(workers.channels[0]) is None
    assert replace(workers) == [call]
    assert len(workers.take_all(workers.channels[0])) == 1
    assert not behind.done()


def test_retries_count_while_a_call_arrives(workers):
    call = submit(workers, LARGE, attempts=2)
    for expected in ([], [], [call]):
        assert workers.take(workers.channels[0]) is None
        assert replace(workers) == expected


def test_workers_that_die_together_count_once():
    """They are removed one by one: meanwhile, the call that waits again is sent to those that are dead, too."""
    workers = LinkWorkers(2 * UNBEGUN_ENDS_MAX, CAPACITY)
    call = submit(workers)
    while load := workers.in_flight():
        number = next(number for number, count in load.items() if count)
        assert workers.dispatcher.remove_dead_worker(number) == []
    for workers.last in range(10, 9 + UNBEGUN_ENDS_MAX):
        workers.add(workers.last, CAPACITY)
        assert workers.dispatcher.remove_dead_worker(workers.last) == []
    workers.last += 1
    workers.add(workers.last, CAPACITY)
    assert workers.dispatcher.remove_dead_worker(workers.last) == [call]


@pytest.mark.parametrize("begins", [True, False])
def test_future_tells_whether_its_call_had_begun(workers, begins):
    call = submit(workers, attempts=1)
    for _ in range(UNBEGUN_ENDS_MAX + 1):  # the last one takes the retry
        assert replace(workers) == []
    if begins:
        assert workers.take(workers.channels[0]) is not None
    assert replace(workers) == [call]
    assert call.is_unbegun is not begins


@pytest.mark.parametrize("argument", [None, LARGE], ids=["small", "large"])
def test_call_waits_again_that_no_worker_has_touched(workers, argument):
    """Unless several have died with it: maybe it is to blame, and it must not wait for ever."""
    call, behind = submit(workers, argument), submit(workers)
    for _ in range(UNBEGUN_ENDS_MAX):
        assert replace(workers) == []
    assert replace(workers) == [call]
    for _ in range(UNBEGUN_ENDS_MAX):
        assert replace(workers) == []
    assert replace(workers) == [behind]


def test_worker_killed_for_a_call_loses_no_other(workers):
    late, behind = submit(workers), submit(workers)
    assert workers.dispatcher.condemn_call(workers.last, workers.take(workers.channels[0]))
    assert workers.take(workers.channels[0]) is None
    assert replace(workers) == [late]
    assert workers.take(workers.channels[0]) is not None
    assert not behind.done()


def test_call_that_ends_before_the_kill_returns(workers):
    late, behind = submit(workers), submit(workers)
    channel = workers.channels[0]
    call = workers.take(channel)
    assert workers.dispatcher.condemn_call(workers.last, call)
    workers.answer(channel, call)
    assert replace(workers) == []
    assert late.result(LIMIT_S) is None
    assert workers.take(workers.channels[0]) is not None
    assert not behind.done()


def test_no_worker_is_killed_for_ended_call(workers):
    first, second = submit(workers), submit(workers)
    channel = workers.channels[0]
    ended = workers.take(channel)
    workers.answer(channel, ended)
    running = workers.take(channel)
    assert not workers.dispatcher.condemn_call(workers.last, ended)
    assert first.result(LIMIT_S) is None
    assert replace(workers) == [second]
    assert running is not None


def test_call_begun_meanwhile_behind_relay_runs_again():
    """The relay has calls that cannot be recalled. The worker may begin one while it is about to be killed for the one before."""
    workers = LinkWorkers(1, CAPACITY, relayed=True)
    late, behind = submit(workers), submit(workers)
    calls = workers.take_all(workers.channels[0])
    assert workers.dispatcher.condemn_call(1, calls[0])
    workers.answer(workers.channels[0], calls[0])
    assert workers.dispatcher.remove_dead_worker(1) == []
    assert late.result(LIMIT_S) is None
    assert len(workers.take_all(workers.add(2, CAPACITY))) == 1
    assert not behind.done()
