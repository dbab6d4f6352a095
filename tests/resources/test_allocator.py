"""Allocation of cores and devices: nothing is allocated twice, and every call starts at last."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool.resources import Devices, ResourceAllocator, Resources
from pympipool.resources import allocator as allocator_module
from pympipool.resources.allocator import PASSES_PER_CORE
from support.interrupts import interrupted_everywhere
from support.no_memory import run_without_memory

TWO_GPUS = Devices("CUDA_VISIBLE_DEVICES", ("0", "GPU-b"))


def test_cores_are_allocated_once():
    allocator = ResourceAllocator(cores=3, devices=Devices())
    two, one = allocator.allocate(Resources(cores=2)), allocator.allocate(Resources())
    assert allocator.allocate(Resources()) is None
    allocator.release(one)
    assert allocator.allocate(Resources(cores=2)) is None
    assert allocator.free_cores == 1
    allocator.release(two)
    allocator.release(two)  # a second release does nothing
    assert allocator.free_cores == 3


def test_too_much_is_an_error_naming_the_limit():
    allocator = ResourceAllocator(cores=3, devices=TWO_GPUS)
    for attempt in (allocator.allocate, allocator.check, lambda asked: allocator.enqueue("x", asked)):
        with pytest.raises(ValueError, match=r"^cores is 4; it must be at most 3"):
            attempt(Resources(cores=4))
        with pytest.raises(ValueError, match=r"^gpus_per_core is 3 .* may use 2 "):
            attempt(Resources(gpus_per_core=3))
        with pytest.raises(ValueError, match=r"^gpus_per_core is 1 with 3 cores"):
            attempt(Resources(cores=3, gpus_per_core=1))
    assert len(allocator) == 0
    assert allocator.free_cores == 3


def test_workers_and_ranks_see_their_own_devices():
    allocator = ResourceAllocator(cores=8, devices=Devices("CUDA_VISIBLE_DEVICES", tuple("abcde")))
    one, two = allocator.allocate(Resources(gpus_per_core=1)), allocator.allocate(Resources(cores=2, gpus_per_core=2))
    assert one.environment() == {"CUDA_VISIBLE_DEVICES": "a"}
    assert two.environment() == {"CUDA_VISIBLE_DEVICES": "b,c,d,e"}
    assert [two.environment(rank)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)] == ["b,c", "d,e"]
    assert allocator.allocate(Resources(gpus_per_core=1)) is None
    allocator.release(two)
    allocator.release(one)
    assert allocator.allocate(Resources(gpus_per_core=2)).devices == ("a", "b"), "in their order"


def test_worker_without_devices_keeps_the_users_environment():
    allocator = ResourceAllocator(cores=1, devices=TWO_GPUS)
    assert allocator.allocate(Resources()).environment() == {}


def test_devices_are_discovered_only_when_needed(monkeypatch):
    monkeypatch.setattr(allocator_module, "available_devices", lambda: pytest.fail("devices were discovered"))
    allocator = ResourceAllocator(cores=1)
    allocator.release(allocator.allocate(Resources()))
    monkeypatch.setattr(allocator_module, "available_devices", lambda: TWO_GPUS)
    assert allocator.allocate(Resources(gpus_per_core=2)).devices == TWO_GPUS.names


def drain(allocator: ResourceAllocator) -> list:
    """Return the tickets that may start now, in order, with their allocations."""
    return list(iter(allocator.next, None))


def test_calls_start_in_order_of_arrival():
    allocator = ResourceAllocator(cores=2, devices=Devices())
    for ticket in range(5):
        allocator.enqueue(ticket, Resources(cores=1 + ticket % 2))
    order = []
    while len(allocator):
        started = drain(allocator)
        order += [ticket for ticket, _ in started]
        for _, allocation in started:
            allocator.release(allocation)
    assert order == [0, 2, 1, 3, 4], "a call passes only while there is room for it"
    assert allocator.free_cores == 2


def test_smaller_calls_pass_a_larger_one_limitedly():
    allocator = ResourceAllocator(cores=2, devices=Devices())
    running = allocator.allocate(Resources())
    allocator.enqueue("large", Resources(cores=2))
    for number in range(1000):
        allocator.enqueue(number, Resources())
    passed = 0
    while (started := allocator.next()) is not None:
        ticket, allocation = started
        assert ticket == passed, "small calls keep their order among themselves"
        passed += 1
        allocator.release(allocation)
    assert passed == 2 * PASSES_PER_CORE
    allocator.release(running)
    ticket, allocation = allocator.next()
    assert ticket == "large"
    allocator.release(allocation)
    assert allocator.next()[0] == passed


def test_call_waiting_for_device_blocks_no_others():
    allocator = ResourceAllocator(cores=3, devices=Devices("CUDA_VISIBLE_DEVICES", ("0",)))
    busy = allocator.allocate(Resources(gpus_per_core=1))
    allocator.enqueue("needs the device", Resources(gpus_per_core=1))
    for number in range(1000):
        allocator.enqueue(number, Resources())
    for number in range(500):
        ticket, allocation = allocator.next()
        assert ticket == number
        allocator.release(allocation)
    allocator.release(busy)
    assert allocator.next()[0] == "needs the device"


def test_withdrawn_ticket_leaves_no_trace():
    allocator = ResourceAllocator(cores=1, devices=TWO_GPUS)
    allocator.allocate(Resources())
    assert allocator.next() is None
    allocator.enqueue("a", Resources())
    assert allocator.withdraw("a")
    assert not allocator.withdraw("a")
    assert len(allocator) == 0
    assert allocator._queues == {}


sizes = st.tuples(st.integers(1, 4), st.integers(0, 2)).filter(lambda size: size[0] * size[1] <= 3)


@given(st.lists(sizes, max_size=60), st.randoms(use_true_random=False))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_call_starts_and_no_device_is_shared(asked, chance):
    devices = Devices("CUDA_VISIBLE_DEVICES", ("0", "1", "2"))
    allocator = ResourceAllocator(cores=4, devices=devices)
    running: list = []
    arrived: list[int] = []
    started_at: dict[int, int] = {}
    starts = 0
    todo = list(enumerate(asked))
    while todo or running or len(allocator):
        if todo and chance.random() < 0.5:
            number, (cores, gpus) = todo.pop(0)
            allocator.enqueue(number, Resources(cores=cores, gpus_per_core=gpus))
            arrived.append(number)
        elif running and chance.random() < 0.5:
            allocator.release(running.pop(chance.randrange(len(running))))
        for ticket, allocation in drain(allocator):
            started_at[ticket] = starts
            starts += 1
            running.append(allocation)
        assert sum(allocation.resources.cores for allocation in running) + allocator.free_cores == 4
        in_use = [name for allocation in running for name in allocation.devices]
        assert len(set(in_use)) == len(in_use)
        if not running:
            assert len(allocator) == 0, "no call waits while all is free"
    assert sorted(started_at) == list(range(len(asked)))
    same: dict = {}
    for number in range(len(asked)):
        assert same.get(asked[number], -1) < started_at[number], "calls of one size start in order"
        same[asked[number]] = started_at[number]


def test_many_threads_lose_no_core():
    allocator = ResourceAllocator(cores=4, devices=TWO_GPUS)
    most = []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(2000):
            allocation = allocator.allocate(Resources(cores=chance.randint(1, 2), gpus_per_core=chance.randint(0, 1)))
            if allocation is not None:
                most.append(allocator.free_cores)
                allocator.release(allocation)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allocator.free_cores == 4
    assert min(most) >= 0
    assert allocator.allocate(Resources(cores=2, gpus_per_core=1)).devices == TWO_GPUS.names


def test_slow_discovery_delays_no_other_thread(monkeypatch):
    started, found = threading.Event(), threading.Event()

    def discover():
        started.set()
        assert found.wait(30)
        return TWO_GPUS

    monkeypatch.setattr(allocator_module, "available_devices", discover)
    allocator = ResourceAllocator(cores=2)
    with ThreadPoolExecutor(2) as threads:
        checked = threads.submit(allocator.check, Resources(gpus_per_core=1))
        assert started.wait(30)
        try:
            threads.submit(allocator.enqueue, "plain", Resources()).result(30)
            assert threads.submit(allocator.next).result(30)[0] == "plain"
        finally:
            found.set()
        checked.result(30)


def test_interrupted_check_shares_no_device(monkeypatch):
    monkeypatch.setattr(allocator_module, "available_devices", lambda: TWO_GPUS)
    resources, allocators = Resources(gpus_per_core=1), []
    places = interrupted_everywhere(
        lambda: allocators[-1].check(resources), prepare=lambda: allocators.append(ResourceAllocator(cores=4))
    )
    assert len(list(places)) >= 3
    for allocator in allocators:
        allocations = [allocator.allocate(resources) for _ in range(3)]
        assert [allocation and allocation.devices for allocation in allocations] == [("0",), ("GPU-b",), None]


def test_ticket_keeps_its_place_without_memory():
    for first in range(30):
        allocator = ResourceAllocator(cores=2, devices=TWO_GPUS)
        allocator.enqueue("first", Resources(cores=2, gpus_per_core=1))
        started = [None]

        def start(allocator=allocator, started=started):
            started[0] = allocator.next()

        run_without_memory(start, first, 1) or start()
        assert started[0][1].devices == TWO_GPUS.names
