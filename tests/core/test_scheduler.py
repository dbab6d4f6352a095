"""The choice of a worker for each call, round by round: over real links, without processes and dispatcher threads."""

import threading
import time

import pytest

from support.link_workers import LIMIT_S, LinkWorkers


def test_short_call_stays_with_last_used_worker():
    """Waking the idle worker would take longer. Timing decides how soon one call follows the other, so the test retries."""
    workers = LinkWorkers(2)
    deadline = time.monotonic() + LIMIT_S
    in_flight = []
    while in_flight != [2, 0]:
        assert time.monotonic() < deadline, "calls are always spread"
        calls = [workers.submit(), workers.submit()]
        taken = {channel: workers.take_all(channel) for channel in workers.channels}
        in_flight = sorted(map(len, taken.values()), reverse=True)
        for channel, names in taken.items():
            for name in names:
                workers.answer(channel, name)
        for call in calls:
            assert call.result(LIMIT_S) is None


@pytest.mark.parametrize("count", [2, 16])
def test_recalled_calls_go_to_all_idle_workers(count):
    workers = LinkWorkers(count)
    for _ in range(5):
        calls = [workers.submit() for _ in range(count)]
        begun = {channel: workers.take(channel) for channel in workers.channels}
        deadline = time.monotonic() + LIMIT_S
        while None in begun.values():
            assert time.monotonic() < deadline, f"not all workers have a call: {workers.in_flight()}"
            time.sleep(0.01)  # twice the time after which a call that is not started is recalled
            workers.pump()
            for channel, call in begun.items():
                begun[channel] = call or workers.take(channel)
        for channel, call in begun.items():
            workers.answer(channel, call)
        for call in calls:
            assert call.result(LIMIT_S) is None


def test_waiting_thread_recalls_call_that_does_not_start():
    """The dispatcher runs without its threads, so no other thread can notice it."""
    workers = LinkWorkers(3)
    workers.dispatcher.signal_check_interval_s = 10 * LIMIT_S  # until then it only wakes up if it is woken
    held = workers.submit()
    names = [workers.take(channel) for channel in workers.channels]
    holder = next(i for i, name in enumerate(names) if name is not None)
    waiting = threading.Thread(target=held.result, args=(10 * LIMIT_S,))
    waiting.start()
    time.sleep(0.1)  # it sleeps by now; if it does not sleep yet, the test covers less, and passes
    stranded = workers.submit()  # sent to another worker, which does not receive
    first = next(number - 1 for number, count in workers.in_flight().items() if count and number - 1 != holder)
    channel = workers.channels[3 - holder - first]
    taken = workers.take(channel, LIMIT_S)
    workers.answer(workers.channels[holder], names[holder])
    waiting.join(LIMIT_S)
    assert taken is not None
    workers.answer(channel, taken)
    assert stranded.result(LIMIT_S) is None


def test_calls_wait_for_a_relay_that_is_busy():
    """To recall them would give a relay that is behind more to do. Timing decides, so the test retries."""
    workers = LinkWorkers(3, relayed=True)
    deadline = time.monotonic() + LIMIT_S
    while True:
        assert time.monotonic() < deadline, "this process gets no core"
        start = time.monotonic()
        futures = [workers.submit() for _ in range(5)]
        before = workers.in_flight()
        for _ in range(10):
            time.sleep(0.002)
            workers.pump()
        after = workers.in_flight()
        has_been_quick = time.monotonic() - start < 0.3
        while workers.dispatcher.unfinished_count:
            for channel in workers.channels:
                for call in workers.take_all(channel):
                    workers.answer(channel, call)
            workers.pump()
        assert [future.result(LIMIT_S) for future in futures] == [None] * 5
        if has_been_quick:
            break
    assert after == before


def test_call_is_recalled_from_a_stopped_relay():
    workers = LinkWorkers(1, relayed=True)
    stranded = workers.submit()
    local = workers.add(2, 1 << 16)
    assert workers.in_flight() == {1: 1, 2: 0}
    deadline = time.monotonic() + LIMIT_S
    while (taken := workers.take(local)) is None:
        assert time.monotonic() < deadline, f"not recalled: {workers.in_flight()}"
        time.sleep(0.01)
        workers.pump()
    workers.answer(local, taken)
    assert stranded.result(LIMIT_S) is None
