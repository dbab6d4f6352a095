from __future__ import annotations

import os
import queue
import socket
import threading

import pytest

from pympipool._util.service_threads import flush_records
from pympipool.pool import event_loop
from pympipool.pool.event_loop import EventLoop, HandlerGroup

TIMEOUT_S = 60.0


@pytest.fixture
def loop():
    exited = threading.Event()
    loop = EventLoop("tested_loop", at_exit=exited.set)
    loop.start()
    yield loop
    loop.call(loop.stop)
    loop.thread.join(TIMEOUT_S)
    assert exited.is_set()
    loop.close()


@pytest.fixture
def events():
    return queue.SimpleQueue()


def test_call_runs_in_the_loops_thread(loop, events):
    loop.call(lambda: events.put(threading.current_thread()))
    assert events.get(timeout=TIMEOUT_S) is loop.thread


def test_handler_that_raises_does_not_end_the_thread(loop, events, caplog):
    loop.call(lambda: 1 / 0)
    loop.call(lambda: events.put("next"))
    assert events.get(timeout=TIMEOUT_S) == "next"
    flush_records()
    assert "unexpected failure in thread tested_loop" in caplog.text


@pytest.mark.parametrize("method", ["call", "call_later"])
def test_function_that_cannot_begin_is_called_later(loop, events, monkeypatch, method):
    monkeypatch.setattr(event_loop, "FAILURE_PAUSE_S", 0.0)
    failures = [MemoryError("injected"), MemoryError("injected")]
    run = loop.run

    def run_with_failures(handler, group=None):
        if failures and handler not in watching:
            raise failures.pop()
        run(handler, group)

    watching = [key.data[0] for key in loop._selector.get_map().values()]
    monkeypatch.setattr(loop, "run", run_with_failures)
    schedule = loop.call if method == "call" else lambda function: loop.call(lambda: loop.call_later(0.0, function))
    for name in ("first", "second"):
        schedule(lambda name=name: events.put(name))
    assert [events.get(timeout=TIMEOUT_S) for _ in range(2)] == ["first", "second"]
    assert not failures
    flush_records()


def test_timers_run_in_order_of_time(loop, events):
    def schedule():
        loop.call_later(0.02, lambda: events.put("late"))
        loop.call_later(0.0, lambda: events.put("early"))

    loop.call(schedule)
    assert [events.get(timeout=TIMEOUT_S) for _ in range(2)] == ["early", "late"]


def test_cancelled_group_of_timers_does_not_run(loop, events):
    group = HandlerGroup()

    def schedule():
        loop.call_later(0.0, lambda: events.put("cancelled"), group)
        loop.call_later(0.0, lambda: events.put("kept"))
        loop.cancel(group)

    loop.call(schedule)
    assert events.get(timeout=TIMEOUT_S) == "kept"
    assert events.empty()
    assert group == set()


def test_cancelled_timers_are_removed_from_the_queue(loop, events, monkeypatch):
    monkeypatch.setattr(event_loop, "CANCELLED_TIMERS_MAX", 10)
    group = HandlerGroup()

    def schedule():
        for _ in range(11):
            loop.call_later(TIMEOUT_S, lambda: None, group)
        loop.cancel(group)
        events.put(len(loop._timers))

    loop.call(schedule)
    assert events.get(timeout=TIMEOUT_S) == 0


def test_watched_descriptor_calls_its_handler(loop, events):
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def read():
            events.put(ours.recv(1))
            loop.unwatch(ours)

        loop.call(lambda: loop.watch(ours, read))
        theirs.send(b"x")
        assert events.get(timeout=TIMEOUT_S) == b"x"


def test_number_of_closed_descriptor_is_watched_again(loop, events):
    numbers, opened = [], set()

    def use_number_again():
        number, writer = os.pipe()
        loop.watch(number, lambda: events.put("old"))
        os.close(number)
        os.close(writer)
        reader, writer = os.pipe()
        os.dup2(reader, number)  # usually it has that number already
        numbers.append(number)
        opened.update((number, reader, writer))
        loop.watch(number, lambda: events.put(os.read(number, 10)))
        os.write(writer, b"new")

    def close():
        loop.unwatch(numbers[0])
        for descriptor in opened:
            os.close(descriptor)
        events.put("closed")

    loop.call(use_number_again)
    assert events.get(timeout=TIMEOUT_S) == b"new"
    loop.call(close)
    assert events.get(timeout=TIMEOUT_S) == "closed"
