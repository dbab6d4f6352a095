from __future__ import annotations

import random
import threading
import time

import pytest

from pympipool.worker import patience
from pympipool.worker.patience import Bell, Patience

LIMIT_S = 10.0


@pytest.fixture
def bells():
    bells = [Bell(), Bell()]
    yield bells
    for bell in bells:
        bell.close()


def sleep_until_rung(bell, flag):
    Patience(bell).wait(flag.is_set)


def test_what_is_done_is_not_waited_for():
    Patience(None).wait(lambda: True)


@pytest.mark.parametrize("cores", [1, 2])
def test_without_a_bell_it_is_noticed_soon(monkeypatch, cores):
    monkeypatch.setattr(patience, "_usable_cores", lambda: cores)
    end = time.monotonic() + 0.05
    Patience(None).wait(lambda: time.monotonic() > end)
    assert time.monotonic() - end < 0.05


def test_a_sleeper_uses_no_processor_time(bells, monkeypatch):
    monkeypatch.setattr(patience, "UNRUNG_S", LIMIT_S)
    flag = threading.Event()
    used = []

    def sleep():
        began = time.thread_time()
        sleep_until_rung(bells[0], flag)
        used.append(time.thread_time() - began)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    time.sleep(0.5)
    flag.set()
    assert bells[1].ring(bells[0].name)
    sleeper.join(LIMIT_S)
    assert used[0] < 0.01


def test_no_wake_up_is_lost(bells, monkeypatch):
    """The sleeper relies on the bell alone, and is rung at every moment between awake and asleep."""
    monkeypatch.setattr(patience, "UNRUNG_S", LIMIT_S)
    monkeypatch.setattr(patience, "SPIN_S", 20e-6)
    rounds = 2000
    seen = []
    written = [0]
    patient = Patience(bells[0])

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
        bells[1].ring(bells[0].name)
        deadline = time.monotonic() + LIMIT_S / 2
        while len(seen) < number:
            assert time.monotonic() < deadline, f"wake-up {number} was lost"
            time.sleep(0)
    sleeper.join(LIMIT_S)


def test_a_lost_wake_up_would_be_made_good(bells):
    flag = threading.Event()
    sleeper = threading.Thread(target=sleep_until_rung, args=(bells[0], flag))
    sleeper.start()
    time.sleep(0.05)
    flag.set()  # without ringing
    sleeper.join(LIMIT_S)
    assert not sleeper.is_alive()


def test_rings_for_what_came_already_do_not_keep_a_sleeper_awake(bells):
    flag = threading.Event()
    used = []

    def sleep():
        began = time.thread_time()
        sleep_until_rung(bells[0], flag)
        used.append(time.thread_time() - began)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    bells[1].ring(bells[0].name)
    time.sleep(0.5)
    flag.set()
    bells[1].ring(bells[0].name)
    sleeper.join(LIMIT_S)
    assert used[0] < 0.05


def test_ringing_never_blocks_however_often(bells):
    for _ in range(1000):
        assert bells[1].ring(bells[0].name)
    bells[0].empty()
    assert not bells[0].sleep(0)


def test_who_is_not_there_cannot_be_rung(bells):
    assert not bells[1].ring("\0pympipool-nobody")


def test_a_bell_that_answers_to_one_cannot_be_rung_by_others(bells):
    other = Bell()
    bells[0].answer_to(bells[1].name)
    assert not other.ring(bells[0].name)
    assert bells[1].ring(bells[0].name)
    other.close()


def test_who_says_that_he_is_awake_looks_at_least_that_long(bells, monkeypatch):
    monkeypatch.setattr(patience, "SPIN_S", 0.02)
    patient = Patience(bells[0])
    promised = patient.awake_until()
    looks = []

    def done():
        looks.append(time.monotonic_ns())
        return looks[-1] > promised

    patient.wait(done)
    assert looks[-1] > promised
    assert looks[-1] < promised + 1e9
