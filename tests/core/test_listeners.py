"""What listens to a future is told of its end, at whatever moment that comes."""

import concurrent.futures as cf
import gc
import threading
from contextlib import contextmanager
from functools import partial

import pytest

from pympipool._core.future import Future
from pympipool._core.mailbox import Mailbox
from support.waiting import LIMIT_S


@contextmanager
def collecting_at(n, function):
    """Have a function called by the garbage collector, at the n-th allocation from now, if that is in the `with` block."""
    threshold = gc.get_threshold()

    def on_collection(phase, _):
        if phase == "start" and on_collection in gc.callbacks:
            gc.callbacks.remove(on_collection)
            gc.set_threshold(*threshold)
            function()

    gc.collect()
    gc.callbacks.append(on_collection)
    gc.set_threshold(n)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        if on_collection in gc.callbacks:
            gc.callbacks.remove(on_collection)


def end_in_another_thread(future):
    """End a future as another thread does while the garbage collector runs finalizers in this one."""
    thread = threading.Thread(target=lambda: future.done() or future.set_result(None))
    thread.start()
    thread.join(LIMIT_S)


ALLOCATIONS = range(1, 12)
"""Allocations at which an end is tried: those that a listener needs are among the first."""


@pytest.mark.parametrize("n", ALLOCATIONS)
def test_end_while_a_mailbox_is_noted_is_told(n):
    future, mailbox = Future(), Mailbox()
    with collecting_at(n, partial(future.set_result, None)):
        future._post_when_done(mailbox, print)
    if not future.done():
        future.set_result(None)
    assert not mailbox.is_empty()


@pytest.mark.parametrize("n", ALLOCATIONS)
def test_mailboxes_noted_at_one_time_are_both_told(n):
    future, first, second = Future(), Mailbox(), Mailbox()
    noted = []
    with collecting_at(n, lambda: noted.append(future._post_when_done(second, print))):
        future._post_when_done(first, print)
    future.set_result(None)
    assert not first.is_empty()
    assert second.is_empty() == (not noted)


@pytest.mark.parametrize("n", range(1, 40))
def test_end_while_a_wait_begins_is_seen(n):
    future = Future()
    late = threading.Timer(0.1, lambda: future.done() or future.set_result(None))
    late.start()
    with collecting_at(n, partial(end_in_another_thread, future)):
        assert cf.wait([future], timeout=LIMIT_S).done == {future}
    late.join()
