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


def sleep_until_notified(listener, flag):
    AdaptiveWaiter(listener).wait(flag.is_set)


def cpu_time_s_of_waiting(listener, notifier, wakeups=0):
    """Return the CPU time that half a second of waiting takes, with some wake-ups in vain."""
    flag = threading.Event()
    used = []

    def sleep():
        began = time.thread_time()
        sleep_until_notified(listener, flag)
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


def test_wait_returns_at_once_if_done():
    AdaptiveWaiter(None).wait(lambda: True)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.alone
def test_wait_without_listener_notices_soon(monkeypatch, cores):
    monkeypatch.setattr(spin_wait, "usable_cores", lambda: cores)

    def late_s():
        end = time.monotonic() + 0.05
        AdaptiveWaiter(None).wait(lambda: time.monotonic() > end)
        return time.monotonic() - end

    assert quickest(late_s, 0.05) < 0.05


@pytest.mark.alone
def test_sleeping_rank_uses_no_cpu(listener, notifier, monkeypatch):
    monkeypatch.setattr(spin_wait, "SLEEP_MAX_S", LIMIT_S)
    assert best(lambda: cpu_time_s_of_waiting(listener, notifier), 0.01) < 0.01


def test_no_wakeup_is_lost(listener, notifier, monkeypatch):
    """The waiting rank relies on wake-ups alone, and gets them at every moment between awake and asleep."""
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


def test_sleep_ends_without_a_wakeup(listener, notifier):
    flag = threading.Event()
    sleeper = threading.Thread(target=sleep_until_notified, args=(listener, flag))
    sleeper.start()
    time.sleep(0.05)
    flag.set()  # without a wake-up
    sleeper.join(LIMIT_S)
    assert not sleeper.is_alive()


@pytest.mark.alone
def test_outdated_wakeups_do_not_keep_a_rank_awake(listener, notifier):
    assert best(lambda: cpu_time_s_of_waiting(listener, notifier, wakeups=1), 0.05) < 0.05


def test_notify_never_blocks(listener, notifier):
    for _ in range(1000):
        assert notifier.notify()
    listener.clear()
    assert not listener.sleep(0)


def test_closed_listener_cannot_be_notified(listener, notifier):
    listener.close()
    assert not notifier.notify()


def test_listener_accepts_only_its_notifier(listener, notifier):
    other = WakeupNotifier(listener.name)
    listener.accept_only(notifier.name)
    assert not other.notify()
    assert notifier.notify()
    other.close()


def test_waiter_spins_until_the_promised_time(listener, notifier, monkeypatch):
    monkeypatch.setattr(spin_wait, "SPIN_S", 0.02)
    waiter = AdaptiveWaiter(listener)
    promised = waiter.awake_until()
    looks = []

    def done():
        looks.append(time.monotonic_ns())
        return looks[-1] > promised

    waiter.wait(done)
    assert looks[-1] > promised
