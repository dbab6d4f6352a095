from __future__ import annotations

import random
import threading
import time

import pytest

from pympipool.worker import spin_wait
from pympipool.worker.spin_wait import AdaptiveWaiter, WakeupListener, WakeupNotifier
from support.timing import best, quickest

LIMIT_S = 40.0


@pytest.fixture
def listener():
    listener = WakeupListener()
    yield listener
    listener.close()


@pytest.fixture
def notifier(listener):
    notifier = WakeupNotifier(listener.name)
    yield notifier
    notifier.close()


def sleep_until_rung(listener, flag):
    AdaptiveWaiter(listener).wait(flag.is_set)


def used_s_asleep(listener, notifier, wakeups=0):
    """The processor time that waiting half a second takes, while the listener wakeups for nothing."""
    flag = threading.Event()
    used = []

    def sleep():
        began = time.thread_time()
        sleep_until_rung(listener, flag)
        used.append(time.thread_time() - began)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    for _ in range(wakeups):
        notifier.notify()
    time.sleep(0.5)
    flag.set()
    assert notifier.notify()
    sleeper.join(LIMIT_S)
    return used[0]


def test_what_is_done_is_not_waited_for():
    AdaptiveWaiter(None).wait(lambda: True)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.alone
def test_without_a_bell_it_is_noticed_soon(monkeypatch, cores):
    monkeypatch.setattr(spin_wait, "_usable_cores", lambda: cores)

    def late_s():
        end = time.monotonic() + 0.05
        AdaptiveWaiter(None).wait(lambda: time.monotonic() > end)
        return time.monotonic() - end

    assert quickest(late_s, 0.05) < 0.05


@pytest.mark.alone
def test_a_sleeper_uses_no_processor_time(listener, notifier, monkeypatch):
    monkeypatch.setattr(spin_wait, "SLEEP_MAX_S", LIMIT_S)
    assert best(lambda: used_s_asleep(listener, notifier), 0.01) < 0.01


def test_no_wake_up_is_lost(listener, notifier, monkeypatch):
    """The sleeper relies on the listener alone, and is rung at every moment between awake and asleep."""
    monkeypatch.setattr(spin_wait, "SLEEP_MAX_S", LIMIT_S)
    monkeypatch.setattr(spin_wait, "SPIN_S", 20e-6)
    rounds = 2000
    seen = []
    written = [0]
    waiter = AdaptiveWaiter(listener)

    def sleep():
        for number in range(1, rounds + 1):
            waiter.wait(lambda number=number: written[0] >= number)
            seen.append(number)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    for number in range(1, rounds + 1):
        pause_until = time.monotonic() + random.uniform(0, 60e-6)
        while time.monotonic() < pause_until:
            pass
        written[0] = number
        notifier.notify()
        deadline = time.monotonic() + LIMIT_S / 2
        while len(seen) < number:
            assert time.monotonic() < deadline, f"wake-up {number} was lost"
            time.sleep(0)
    sleeper.join(LIMIT_S)


def test_a_lost_wake_up_would_be_made_good(listener, notifier):
    flag = threading.Event()
    sleeper = threading.Thread(target=sleep_until_rung, args=(listener, flag))
    sleeper.start()
    time.sleep(0.05)
    flag.set()  # without ringing
    sleeper.join(LIMIT_S)
    assert not sleeper.is_alive()


@pytest.mark.alone
def test_rings_for_what_came_already_do_not_keep_a_sleeper_awake(listener, notifier):
    assert best(lambda: used_s_asleep(listener, notifier, wakeups=1), 0.05) < 0.05


def test_ringing_never_blocks_however_often(listener, notifier):
    for _ in range(1000):
        assert notifier.notify()
    listener.clear()
    assert not listener.sleep(0)


def test_who_is_not_there_cannot_be_rung(listener, notifier):
    listener.close()
    assert not notifier.notify()


def test_a_bell_that_answers_to_one_cannot_be_rung_by_others(listener, notifier):
    other = WakeupNotifier(listener.name)
    listener.accept_only(notifier.name)
    assert not other.notify()
    assert notifier.notify()
    other.close()


def test_who_says_that_he_is_awake_looks_at_least_that_long(listener, notifier, monkeypatch):
    monkeypatch.setattr(spin_wait, "SPIN_S", 0.02)
    waiter = AdaptiveWaiter(listener)
    promised = waiter.awake_until()
    looks = []

    def done():
        looks.append(time.monotonic_ns())
        return looks[-1] > promised

    waiter.wait(done)
    assert looks[-1] > promised
