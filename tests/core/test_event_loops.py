"""The wake-ups of an event loop by other threads, which set the results of calls that its coroutines wait for."""

import asyncio
import os
import signal

import pytest

from pympipool import Executor
from support.calls import hold
from support.waiting import LIMIT_S, wait_until


def test_result_during_wake_up_stops_no_other_one(make_gate, monkeypatch):
    """The second result arrives while the loop's thread is about to read that there is a first one."""
    gates = [make_gate() for _ in range(3)]
    calls, reads = [], []

    async def main(exe):
        add_reader = asyncio.get_running_loop().add_reader

        def add_late_reader(descriptor, callback):
            def read_late():
                if not reads:
                    reads.append(descriptor)
                    gates[1].open()
                    wait_until(calls[1].done)
                callback()

            return add_reader(descriptor, read_late)

        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", add_late_reader)
        calls.extend(exe.submit(hold, gate.path, number) for number, gate in enumerate(gates))
        for gate in gates:
            gate.wait_until_begun()
        awaited = [asyncio.wrap_future(call) for call in calls]
        asyncio.get_running_loop().call_later(0.05, gates[0].open)  # the loop sleeps by then
        assert await asyncio.wait_for(asyncio.gather(*awaited[:2]), LIMIT_S) == [0, 1]
        asyncio.get_running_loop().call_later(0.05, gates[2].open)
        return await asyncio.wait_for(awaited[2], LIMIT_S)

    with Executor(max_workers=3, block_allocation=True) as exe:
        assert asyncio.run(main(exe)) == 2
    assert reads


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Watches no descriptors of others, as asyncio's default loop on Windows."""

    def add_reader(self, *_):
        raise NotImplementedError


@pytest.fixture
def loop():
    loop = LoopWithoutReaders()
    yield loop
    loop.close()


async def wait_for_late_results(calls, gates):
    """Have calls end while the loop sleeps, one after the other; return their results."""
    results = []
    for call, gate in zip(calls, gates, strict=True):
        asyncio.get_running_loop().call_later(0.05, gate.open)
        results.append(await asyncio.wait_for(asyncio.wrap_future(call), LIMIT_S))
    return results


@pytest.fixture
def held(make_gate):
    """Calls that have begun, and the gates that end them."""
    gates = [make_gate() for _ in range(2)]
    with Executor(max_workers=2, block_allocation=True) as exe:
        calls = [exe.submit(hold, gate.path, number) for number, gate in enumerate(gates)]
        for gate in gates:
            gate.wait_until_begun()
        yield calls, gates


def test_loop_that_watches_no_descriptors_is_woken(loop, held, monkeypatch):
    made = []
    make = os.eventfd
    monkeypatch.setattr(os, "eventfd", lambda *args: made.append(args) or make(*args))
    assert loop.run_until_complete(wait_for_late_results(*held)) == [0, 1]
    assert len(made) == 1  # to see that it is not watched


def test_interrupt_while_a_loop_is_woken_comes_later(loop, held, monkeypatch):
    raised, handled = [], []
    call_soon = loop.call_soon_threadsafe

    def interrupted(*args, **kwargs):
        if not raised:
            raised.append(True)
            raise KeyboardInterrupt
        return call_soon(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    before = signal.signal(signal.SIGINT, lambda *_: handled.append(True))
    try:
        assert loop.run_until_complete(wait_for_late_results(*held)) == [0, 1]
        wait_until(lambda: handled)
    finally:
        signal.signal(signal.SIGINT, before)
