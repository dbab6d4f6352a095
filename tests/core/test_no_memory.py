"""Where memory runs out, at whatever allocation, no future and no listener is forgotten, and no thread ends."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from pympipool._core import ring
from pympipool._core.calls import FunctionHandle
from pympipool._core.channel import Channel
from pympipool._core.dispatcher import Dispatcher
from pympipool._core.future import Future
from pympipool._core.mailbox import Mailbox
from pympipool._util.service_threads import flush_records
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception
from support.no_memory import run_without_memory

LIMIT_S = 60.0
FUNCTION = FunctionHandle(1, b"of no matter")
SHORTAGES = [(first, count) for count in (1, 5) for first in range(20)]


class Told(Exception):
    pass


class Master:
    """A dispatcher without threads, and futures with a listener each."""

    def __init__(self):
        self.dispatcher = Dispatcher(payload.load, load_exception, lambda: None)
        self.mailbox = Mailbox()

    def submit(self):
        future = Future()
        self.dispatcher.adopt(future)
        future._post_when_done(self.mailbox, future)
        self.dispatcher.submit(future, FUNCTION, payload.dump_call(1, print, (), {}))
        return future

    def add_worker(self):
        self.link = ring.link_segment()
        self.dispatcher.add_worker(1, self.link)
        return Channel(self.link, self.dispatcher.doorbells)

    def told(self):
        """Return the futures of whose end the listeners were told."""
        told = []
        while (future := self.mailbox.peek()) is not None:
            told.append(future)
            self.mailbox.drop()
        return told


@pytest.mark.parametrize("kind", ["cancel", "fail"])
def test_waiting_calls_end_without_memory(kind):
    for shortage in SHORTAGES:
        master = Master()
        futures = [master.submit() for _ in range(3)]
        dispatcher = master.dispatcher
        end = dispatcher.cancel_waiting if kind == "cancel" else partial(dispatcher._fail_waiting, Told)
        run_without_memory(end, *shortage) or end()
        assert master.told() == futures
        assert all(future.done() for future in futures)
        assert master.dispatcher.unfinished_count == 0
        if kind == "fail":
            assert all(type(future.exception()) is Told for future in futures)


def test_single_future_fails_without_memory():
    for shortage in SHORTAGES:
        master = Master()
        future, error = master.submit(), Told()
        fail = partial(master.dispatcher.fail, future, error)
        run_without_memory(fail, *shortage) or fail()
        assert master.told() == [future]
        assert future.exception() is error


def test_result_that_has_arrived_ends_its_call():
    for shortage in SHORTAGES:
        master = Master()
        channel = master.add_worker()
        future = master.submit()
        while (message := channel.receive(LIMIT_S))[0] != ring.CALL:
            pass
        channel.send(ring.RESULT, message[1], 1, payload.dump("result"))
        run_without_memory(future.done, *shortage)
        assert future.done()
        assert master.told() == [future]
        assert isinstance(future.exception(), MemoryError) or future.result() == "result"


def test_dead_worker_loses_no_call():
    for shortage in SHORTAGES:
        master = Master()
        channel = master.add_worker()
        started, *waiting = [master.submit() for _ in range(3)]
        while channel.receive(LIMIT_S)[0] != ring.CALL:
            pass
        removed = [[]]

        def remove(dispatcher=master.dispatcher, removed=removed):
            removed[0] = dispatcher.remove_dead_worker(1)

        run_without_memory(remove, *shortage) or remove()
        assert removed == [[started]]
        assert master.dispatcher.waiting_count == len(waiting)
        assert master.dispatcher.load_of_workers() == {}


def test_worker_is_added_or_not():
    for shortage in SHORTAGES:
        master = Master()
        link = ring.link_segment()
        added = run_without_memory(partial(master.dispatcher.add_worker, 1, link), *shortage)
        assert set(master.dispatcher.load_of_workers()) in ({1}, set() if not added else {1})


@pytest.fixture
def dispatcher():
    running = Dispatcher(payload.load, load_exception, lambda: None)
    running.start()
    yield running
    running.stop()
    assert running.join(LIMIT_S)
    flush_records()


@pytest.mark.parametrize("kind", [MemoryError, SystemExit, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("place", ["completion", "continuations"])
def test_service_thread_survives(dispatcher, place, kind):
    post = dispatcher.call_soon if place == "completion" else dispatcher.continuations.post
    ended, runs = threading.Event(), []

    def fails():
        runs.append(kind)
        if len(runs) <= 2:
            raise kind

    post(fails)
    post(ended.set)
    assert ended.wait(LIMIT_S)
    assert len(runs) == (3 if kind is MemoryError else 1)
