"""The wake-ups of an event loop by other threads, which set the results of calls that its coroutines wait for."""

import asyncio

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
