"""More workers than are watched: their news, and the sets by which the scheduler knows them. Over real links, without processes."""

import random
import threading
import time

import pytest

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.channel import Channel
from support.link_workers import LIMIT_S, LinkWorkers

COUNT = 40
"""Five times as many workers as are watched."""

SMALL = 32_768
LONG_NS = 100_000_000


@pytest.fixture
def workers():
    return LinkWorkers(COUNT, SMALL)


def spread(workers, function=None):
    """Have each worker take a call; return {channel: its call} and the futures."""
    function = function or FunctionHandle(2, b"of unknown length: such calls go to idle workers")
    futures, taken = [], {}
    for _ in workers.channels:
        futures.append(workers.submit(function))
        for channel in workers.channels:  # at once: a call that is not started is recalled
            if channel not in taken and (call := workers.take(channel)) is not None:
                taken[channel] = call
    assert len(taken) == COUNT
    return taken, futures


def test_news_of_all_workers_arrive(workers):
    order = random.Random(5)
    for _ in range(20):
        taken, futures = spread(workers)
        channels = order.sample(workers.channels, COUNT)
        while channels:
            for _ in range(order.randint(1, len(channels))):
                channel = channels.pop()
                workers.answer(channel, taken[channel], LONG_NS)
            workers.pump()
        assert [future.result(LIMIT_S) for future in futures] == [None] * COUNT


@pytest.mark.parametrize("place", [0, COUNT // 2, COUNT - 1])
def test_sleeping_thread_is_woken_by_any_worker(workers, place):
    """The dispatcher runs without its threads, and the waiting thread wakes up only if it is woken."""
    workers.dispatcher.signal_check_interval_s = 10 * LIMIT_S
    for _ in range(3):
        taken, futures = spread(workers)
        threads = [threading.Thread(target=future.result, args=(LIMIT_S,)) for future in futures[:1]]
        for thread in threads:
            thread.start()
        time.sleep(0.05)  # they sleep by now; if not, the test covers less, and passes
        channels = workers.channels[place:] + workers.channels[:place]
        start = time.monotonic()
        for channel in channels:
            workers.answer(channel, taken[channel], LONG_NS)
        for thread in threads:
            thread.join(LIMIT_S)
        assert time.monotonic() - start < LIMIT_S / 2
        for future in futures:
            assert future.result(LIMIT_S) is None


def test_idle_worker_used_last_is_preferred(workers):
    taken, _futures = spread(workers)
    last = workers.channels[17]
    for channel in [channel for channel in workers.channels if channel is not last] + [last]:
        workers.answer(channel, taken[channel], LONG_NS)
        workers.pump()
    for _ in range(3):
        call = workers.submit()
        assert workers.in_flight()[18] == 1
        workers.answer(last, workers.take(last))
        assert call.result(LIMIT_S) is None


def test_least_loaded_worker_gets_next_call(workers):
    """No call is sent ahead to a worker that takes twice as long as expected. Timing decides that, so the test retries."""
    function = FunctionHandle(3, b"of some milliseconds")
    deadline = time.monotonic() + LIMIT_S
    loads = set()
    while loads != {2}:
        assert time.monotonic() < deadline, f"calls are not spread: {workers.in_flight()}"
        taken, futures = spread(workers, function)
        futures += [workers.submit() for _ in range(COUNT)]
        loads = set(workers.in_flight().values())
        for channel, call in taken.items():
            workers.answer(channel, call, 15_000_000)
        run_all(workers)
        assert [future.result(LIMIT_S) for future in futures] == [None] * (2 * COUNT)


def run_all(workers):
    """Run all calls that are not taken yet."""
    deadline = time.monotonic() + LIMIT_S
    while workers.dispatcher.unfinished_count:
        assert time.monotonic() < deadline, f"{workers.in_flight()}, {workers.dispatcher.waiting_count} wait"
        for channel in workers.channels:
            for call in workers.take_all(channel):
                workers.answer(channel, call)
        workers.pump()


def test_slot_of_dead_worker_serves_another_one(workers):
    for number in range(1, COUNT + 1, 3):
        workers.dispatcher.remove_dead_worker(number)
        workers.channels[number - 1] = workers.add(1000 + number, SMALL)
    for _ in range(3):
        taken, futures = spread(workers)
        for channel in reversed(workers.channels):
            workers.answer(channel, taken[channel], LONG_NS)
        assert [future.result(LIMIT_S) for future in futures] == [None] * COUNT


@pytest.mark.parametrize("seed", range(6))
def test_no_call_is_lost_in_any_order(seed):
    """Calls are submitted, taken, answered, cancelled and recalled, and workers die and come, in random order."""
    order = random.Random(seed)
    workers = LinkWorkers(20, SMALL)
    numbers = {channel: number for number, channel in enumerate(workers.channels, start=1)}
    functions = [FunctionHandle(number, b"any") for number in range(10, 14)]
    futures, taken = [], {channel: [] for channel in workers.channels}

    def submit():
        futures.extend(workers.submit(order.choice(functions)) for _ in range(order.choice([1, 1, 5, 60])))

    def take():
        channel = order.choice(workers.channels)
        if (call := workers.take(channel)) is not None:
            taken[channel].append(call)

    def answer():
        channel = order.choice(workers.channels)
        while taken[channel] and order.random() < 0.8:
            workers.answer(channel, taken[channel].pop(0), order.choice([100, 10_000, 3_000_000]))

    def cancel():
        if futures:
            order.choice(futures).cancel()

    def replace():
        channel = order.choice(workers.channels)
        workers.dispatcher.remove_dead_worker(numbers[channel])
        workers.channels.remove(channel)
        new = workers.add(max(numbers.values()) + 1, SMALL)
        workers.channels.append(new)
        numbers[new], taken[new] = max(numbers.values()) + 1, []

    def pause():
        time.sleep(order.choice([0, 0, 0.0003, 0.006]))
        workers.pump()

    for _ in range(1500):
        order.choices([submit, take, answer, cancel, replace, pause], [2, 6, 6, 1, 0.1, 2])[0]()
    for channel in workers.channels:
        for call in taken[channel]:
            workers.answer(channel, call)
    run_all(workers)
    assert set(workers.in_flight().values()) == {0}
    assert sum(load[1] for load in workers.dispatcher.load_of_workers().values()) <= len(futures) + 10


def test_slot_number_comes_with_first_call():
    """A worker that has opened its link before the master has given it a slot announces its news in the right one."""
    workers = LinkWorkers(1, SMALL)
    link = ring.link_segment(SMALL)
    channel = Channel(link, workers.dispatcher.doorbells)
    for number in range(2, COUNT):
        workers.add(number, SMALL)
    workers.dispatcher.add_worker(COUNT, link)
    futures = [workers.submit(FunctionHandle(4, b"of unknown length")) for _ in range(COUNT)]
    workers.answer(channel, workers.take(channel, LIMIT_S), LONG_NS)
    assert any(future.done() for future in futures for _ in range(2))
