"""asyncio: `loop.run_in_executor`, also as the loop's default."""

from __future__ import annotations

import asyncio
import os

import pytest

from ecosystem.calls import fail_at, sleep_and_pid, square


def test_run_in_executor_awaits_a_call(executor):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(10)))

    assert asyncio.run(main()) == [i * i for i in range(10)]


def test_the_loop_goes_on_while_a_call_runs(executor):
    async def main():
        call = asyncio.get_running_loop().run_in_executor(executor, sleep_and_pid, 0.2)
        turns = 0
        while not call.done():
            turns += 1
            await asyncio.sleep(0.01)
        return await call, turns

    pid, turns = asyncio.run(main())
    assert pid != os.getpid()
    assert turns > 1


def test_an_exception_arrives_where_it_is_awaited(executor):
    async def main():
        with pytest.raises(ArithmeticError, match="no result for 3"):
            await asyncio.get_running_loop().run_in_executor(executor, fail_at, 3, 3)

    asyncio.run(main())


def test_wait_for_gives_up_and_the_executor_goes_on(executor):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(executor, sleep_and_pid, 0.5), timeout=0.05)
        return await loop.run_in_executor(executor, square, 5)

    assert asyncio.run(main()) == 25


def test_as_completed_yields_calls_as_they_end(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, square, i) for i in range(6)]
        return {await call for call in asyncio.as_completed(calls)}

    assert asyncio.run(main()) == {0, 1, 4, 9, 16, 25}
