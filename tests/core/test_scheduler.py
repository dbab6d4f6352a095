"""The choice of a worker for each call, round by round: over real links, without processes and dispatcher threads."""

import threading
import time

import pytest

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception

LIMIT_S = 30.0
SHORT_NS = 100


class Workers:
    """A dispatcher without threads, the workers' sides of its links, and a function that it knows to be short."""

    def __init__(self, count):
        self.dispatcher = Dispatcher(payload.load, load_exception, lambda: None)
        self.function = FunctionHandle(1, b"of no matter")
        links = [ring.link_segment() for _ in range(count)]
        for number, link in enumerate(links, start=1):
            self.dispatcher.add_worker(number, link)
        self.channels = [ring.Channel(link, self.dispatcher.doorbells) for link in links]
        for _ in range(10):
            call = self.submit()
            for channel in self.channels:
                self.answer(channel, self.take(channel))
            assert call.result(LIMIT_S) is None

    def submit(self):
        future = Future()
        self.dispatcher.adopt(future)
        self.dispatcher.submit(future, self.function, payload.dump_call(1, print, (), {}))
        return future

    def take(self, channel, limit_s=0.0):
        """Return the id of the call that a worker receives next, or None."""
        while (message := channel.receive(limit_s)) is not None:
            if message[0] == ring.CALL:
                return message[1]
        return None

    def take_all(self, channel):
        """Return the ids of all calls in flight at a worker."""
        return list(iter(lambda: self.take(channel), None))

    def answer(self, channel, call):
        if call is not None:
            channel.send(ring.RESULT, call, SHORT_NS, payload.dump(None))


def test_short_call_stays_with_last_used_worker():
    """Waking the idle worker would take longer. Timing decides how soon one call follows the other, so the test retries."""
    workers = Workers(2)
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
    workers = Workers(count)
    for _ in range(5):
        calls = [workers.submit() for _ in range(count)]
        begun = {channel: workers.take(channel) for channel in workers.channels}
        time.sleep(0.01)  # twice the time after which a call that is not started is recalled
        calls[0].done()  # one round
        for channel, call in begun.items():
            begun[channel] = call or workers.take(channel)
        assert None not in begun.values()
        for channel, call in begun.items():
            workers.answer(channel, call)
        for call in calls:
            assert call.result(LIMIT_S) is None


def test_waiting_thread_recalls_call_that_does_not_start():
    """The dispatcher runs without its threads, so no other thread can notice it."""
    workers = Workers(3)
    workers.dispatcher.signal_check_interval_s = 10 * LIMIT_S  # until then it only wakes up if it is woken
    held = workers.submit()
    names = [workers.take(channel) for channel in workers.channels]
    holder = next(i for i, name in enumerate(names) if name is not None)
    waiting = threading.Thread(target=held.result, args=(10 * LIMIT_S,))
    waiting.start()
    time.sleep(0.1)  # it sleeps by now; if it does not sleep yet, the test covers less, and passes
    stranded = workers.submit()  # sent to the next worker, which does not receive
    channel = workers.channels[holder - 1]
    taken = workers.take(channel, LIMIT_S)
    workers.answer(workers.channels[holder], names[holder])
    waiting.join(LIMIT_S)
    assert taken is not None
    workers.answer(channel, taken)
    assert stranded.result(LIMIT_S) is None
