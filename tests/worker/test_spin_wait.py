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
def bell():
    bell = WakeupListener()
    yield bell
    bell.close()


@pytest.fixture
def ringer(bell):
    ringer = WakeupNotifier(bell.name)
    yield ringer
    ringer.close()


def sleep_until_rung(bell, flag):
    AdaptiveWaiter(bell).wait(flag.is_set)


def used_s_asleep(bell, ringer, rings=0):
    """The processor time that waiting half a second takes, while the bell rings for nothing."""
    flag = threading.Event()
    used = []

    def sleep():
        began = time.thread_time()
        sleep_until_rung(bell, flag)
        used.append(time.thread_time() - began)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    for _ in range(rings):
        ringer.ring()
    time.sleep(0.5)
    flag.set()
    assert ringer.ring()
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
def test_a_sleeper_uses_no_processor_time(bell, ringer, monkeypatch):
    monkeypatch.setattr(spin_wait, "UNRUNG_S", LIMIT_S)
    assert best(lambda: used_s_asleep(bell, ringer), 0.01) < 0.01


def test_no_wake_up_is_lost(bell, ringer, monkeypatch):
    """The sleeper relies on the bell alone, and is rung at every moment between awake and asleep."""
    monkeypatch.setattr(spin_wait, "UNRUNG_S", LIMIT_S)
    monkeypatch.setattr(spin_wait, "SPIN_S", 20e-6)
    rounds = 2000
    seen = []
    written = [0]
    patient = AdaptiveWaiter(bell)

    def sleep():
        for number in range(1, rounds + 1):
            patient.wait(lambda number=number: written[0] >= number)
            seen.append(number)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    for number in range(1, rounds + 1):
        pause_until = time.monotonic() + random.uniform(0, 60e-6)
        while time.monotonic() < pause_until:
            pass
        written[0] = number
        ringer.ring()
        deadline = time.monotonic() + LIMIT_S / 2
        while len(seen) < number:
            assert time.monotonic() < deadline, f"wake-up {number} was lost"
            time.sleep(0)
    sleeper.join(LIMIT_S)


def test_a_lost_wake_up_would_be_made_good(bell, ringer):
    flag = threading.Event()
    sleeper = threading.Thread(target=sleep_until_rung, args=(bell, flag))
    sleeper.start()
    time.sleep(0.05)
    flag.set()  # without ringing
    sleeper.join(LIMIT_S)
    assert not sleeper.is_alive()


@pytest.mark.alone
def test_rings_for_what_came_already_do_not_keep_a_sleeper_awake(bell, ringer):
    assert best(lambda: used_s_asleep(bell, ringer, rings=1), 0.05) < 0.05


def test_ringing_never_blocks_however_often(bell, ringer):
    for _ in range(1000):
        assert ringer.ring()
    bell.empty()
    assert not bell.sleep(0)


def test_who_is_not_there_cannot_be_rung(bell, ringer):
    bell.close()
    assert not ringer.ring()


def test_a_bell_that_answers_to_one_cannot_be_rung_by_others(bell, ringer):
    other = WakeupNotifier(bell.name)
    bell.answer_to(ringer.name)
    assert not other.ring()
    assert ringer.ring()
    other.close()


def test_who_says_that_he_is_awake_looks_at_least_that_long(bell, ringer, monkeypatch):
    monkeypatch.setattr(spin_wait, "SPIN_S", 0.02)
    patient = AdaptiveWaiter(bell)
    promised = patient.awake_until()
    looks = []

    def done():
        looks.append(time.monotonic_ns())
        return looks[-1] > promised

    patient.wait(done)
    assert looks[-1] > promised
