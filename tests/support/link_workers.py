"""A dispatcher with the workers' sides of its links, without processes and without the dispatcher's threads."""

from __future__ import annotations

import os

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.channel import Channel
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool._core.link_group import LinkGroup
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception

LIMIT_S = 60.0
SHORT_NS = 100


class LinkWorkers:
    """A dispatcher, workers, and a function that the dispatcher knows to be short.

    Args:
        count: Number of workers; the first has number 1.
        capacity: Bytes of each ring.
        relayed: The workers are behind the relay.
    """

    def __init__(self, count, capacity=ring.RING_CAPACITY, *, relayed=False):
        self.dispatcher = Dispatcher(payload.load, load_exception, lambda: None)
        self.function = FunctionHandle(1, b"of no matter")
        self.group = LinkGroup(os.dup(self.dispatcher.doorbells.fileno()))
        self.waiting = Future()  # never has a call
        self.dispatcher.adopt(self.waiting)
        add = self.add_relayed if relayed else self.add
        self.channels = [add(number, capacity) for number in range(1, count + 1)]
        for _ in range(10):
            call = self.submit()
            for channel in self.channels:
                self.answer(channel, self.take(channel))
            assert call.result(LIMIT_S) is None

    def add(self, number, capacity):
        """Add a worker and return its side of the link."""
        link = ring.link_segment(capacity)
        self.dispatcher.add_worker(number, link)
        return Channel(link, self.dispatcher.doorbells)

    def add_relayed(self, number, capacity):
        """Add a worker behind the relay, and return the relay's side of its link."""
        link = ring.link_segment(capacity)
        channel = self.group.add(os.dup(link.fileno()), Channel)
        self.dispatcher.add_worker(number, link)
        return channel

    def pump(self):
        """Do one round."""
        assert not self.waiting.done()

    def submit(self, function=None):
        future = Future()
        self.dispatcher.adopt(future)
        self.dispatcher.submit(future, function or self.function, payload.dump_call(1, print, (), {}))
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

    def answer(self, channel, call, run_ns=SHORT_NS):
        if call is not None:
            channel.send(ring.RESULT, call, run_ns, payload.dump(None))

    def in_flight(self):
        """Return the number of calls in flight at each worker, by its number."""
        return {number: load[0] for number, load in self.dispatcher.load_of_workers().items()}
