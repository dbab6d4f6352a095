"""A pipe without a descriptor: it is read like one, and has its sender pause."""

from __future__ import annotations

import pytest

from pympipool.pool.event_loop import EventLoop
from pympipool.transport.inbox import WAITING_MAX_BYTES, Inbox
from support.waiting import wait_until


def test_reads_return_what_has_arrived_then_the_end():
    inbox = Inbox()
    assert inbox.read() is None
    assert not inbox.is_readable
    inbox.put(b"first")
    inbox.put(b"second")
    assert inbox.is_readable
    assert [inbox.read(3), inbox.read(3), inbox.take(), inbox.read()] == [b"fir", b"st", b"second", None]
    inbox.put(b"third")
    inbox.end()
    assert [inbox.read(), inbox.read(), inbox.read()] == [b"third", b"", b""]


def test_sender_pauses_until_all_is_read():
    paused = []
    inbox = Inbox(paused.append)
    inbox.put(bytes(WAITING_MAX_BYTES))
    assert paused == []
    inbox.put(b"1")
    inbox.put(b"2")
    assert paused == [True]
    for _ in range(3):
        assert paused == [True]
        inbox.read()
    assert paused == [True, False]


def test_closed_inbox_drops_all_and_resumes_sender():
    paused = []
    inbox = Inbox(paused.append)
    inbox.put(bytes(WAITING_MAX_BYTES + 1))
    inbox.close()
    inbox.put(bytes(WAITING_MAX_BYTES + 1))
    assert paused == [True, False]
    assert not inbox.is_readable


@pytest.fixture
def loop():
    loop = EventLoop("test", lambda: None)
    loop.start()
    yield loop
    loop.call(loop.stop)
    wait_until(lambda: not loop.thread.is_alive())
    loop.close()


def test_loop_calls_the_handler_while_there_is_something(loop):
    inbox, read = Inbox(), []

    def handle():
        read.append(inbox.read(1))
        if read[-1] == b"":
            loop.unwatch(inbox)

    inbox.put(b"ab")
    loop.call(lambda: loop.watch(inbox, handle))
    wait_until(lambda: read == [b"a", b"b"])
    loop.call(lambda: inbox.put(b"c"))
    wait_until(lambda: read == [b"a", b"b", b"c"])
    loop.call(inbox.end)
    wait_until(lambda: read == [b"a", b"b", b"c", b""])


def test_handler_may_stop_watching_another_inbox(loop):
    first, second = Inbox(), Inbox()
    seen = []

    def handle(own, other):
        seen.append(own.read())
        loop.unwatch(other)

    def begin():
        loop.watch(first, lambda: handle(first, second))
        loop.watch(second, lambda: handle(second, first))
        first.put(b"one")
        second.put(b"two")

    loop.call(begin)
    wait_until(lambda: seen)
    ended = []
    loop.call(lambda: ended.append(True))
    wait_until(lambda: ended)
    assert seen == [b"one"]
