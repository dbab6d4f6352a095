"""asyncio: calls through `loop.run_in_executor`, awaited with `gather`, `wait_for` and `as_completed`."""

from __future__ import annotations

import asyncio
import os

import pytest

from ecosystem.calls import fail_at, square
from support.calls import hold


def test_run_in_executor_awaits_a_call(executor):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(10)))

    assert asyncio.run(main()) == [i * i for i in range(10)]


def test_the_loop_goes_on_while_a_call_runs(executor, gate):
    async def main():
        call = asyncio.get_running_loop().run_in_executor(executor, hold, gate.path)
        for _ in range(10):
            await asyncio.sleep(0.001)
            assert not call.done()
        gate.open()
        return await call

    assert asyncio.run(main()) != os.getpid()


def test_an_exception_arrives_where_it_is_awaited(executor):
    async def main():
        with pytest.raises(ArithmeticError, match="no result for 3"):
            await asyncio.get_running_loop().run_in_executor(executor, fail_at, 3, 3)

    asyncio.run(main())


def test_executor_works_after_wait_for_timeout(executor, gate):
    held = executor.submit(hold, gate.path, "held")
    gate.wait_until_begun()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(held), timeout=0.05)
        return await asyncio.get_running_loop().run_in_executor(executor, square, 5)

    assert asyncio.run(main()) == 25
    gate.open()
    assert held.result() == "held"


def test_as_completed_yields_calls_as_they_end(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, square, i) for i in range(6)]
        return {await call for call in asyncio.as_completed(calls)}

    assert asyncio.run(main()) == {0, 1, 4, 9, 16, 25}
