"""asyncio: calls through `loop.run_in_executor`, awaited with `gather`, `wait_for` and `as_completed`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from concurrent import futures
from functools import partial
from pathlib import Path

import pytest

from ecosystem.calls import fail_at, square
from pympipool import Executor
from support.calls import hold
from support.waiting import LIMIT_S, wait_until


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


# ---- threads ----


def test_users_callbacks_do_not_run_in_the_loop(make_executor, gate):
    executor = make_executor()

    async def main():
        threads = []
        call = executor.submit(hold, gate.path, 9)  # which does not end before it has its callback
        call.add_done_callback(lambda _: threads.append(threading.get_ident()))
        gate.open()
        assert await asyncio.wrap_future(call) == 9
        other = executor.submit(hold, gate.path, 16)
        awaited = asyncio.wrap_future(other)
        other.add_done_callback(lambda _: threads.append(threading.get_ident()))
        gate.open()
        assert await awaited == 16
        return threads

    threads = asyncio.run(main())
    executor.shutdown()
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_a_blocked_loop_delays_no_other_thread(executor, make_gate):
    gates = [make_gate(), make_gate()]
    ended = threading.Event()

    async def main():
        awaited = asyncio.get_running_loop().run_in_executor(executor, square, 5)
        for gate in gates:
            executor.submit(hold, gate.path).add_done_callback(lambda _: ended.set())
            gate.open()
            assert ended.wait(LIMIT_S)  # the loop is blocked here
            ended.clear()
        return await awaited

    assert asyncio.run(main()) == 25


def test_loops_of_two_threads_at_the_same_time(executor):
    async def main(start):
        loop = asyncio.get_running_loop()
        values = [await loop.run_in_executor(executor, square, i) for i in range(start, start + 50)]
        return values + await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(50)))

    with futures.ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda start: asyncio.run(main(start)), (0, 100)))
    for start, result in zip((0, 100), results, strict=True):
        assert result == [i * i for i in range(start, start + 50)] + [i * i for i in range(50)]


# ---- the end of loops ----


def test_many_loops_leave_no_descriptors(executor):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(executor, square, 7)

    assert asyncio.run(main()) == 49
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert asyncio.run(main()) == 49
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_executors_of_one_loop_leave_nothing(make_executor):
    async def main():
        counts = []
        for _ in range(6):
            executor = make_executor()
            assert await asyncio.get_running_loop().run_in_executor(executor, square, 7) == 49
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)
            await asyncio.sleep(0.01)
            counts.append(len(os.listdir("/proc/self/fd")))
        leave_nothing = partial(wait_until, lambda: len(os.listdir("/proc/self/fd")) <= counts[1])
        await asyncio.get_running_loop().run_in_executor(None, leave_nothing)

    asyncio.run(main())


def test_dropped_executor_ends_while_the_loop_runs():
    async def main():
        executor = Executor(max_workers=1, block_allocation=True)
        pid = await asyncio.get_running_loop().run_in_executor(executor, os.getpid)
        del executor
        gc.collect()
        await asyncio.get_running_loop().run_in_executor(None, wait_until, lambda: not os.path.exists(f"/proc/{pid}"))

    asyncio.run(main())


def sleeps_of_threads():
    """Return how often the threads of this process have gone to sleep."""
    statuses = []
    for status in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread has ended
            statuses.append(status.read_text())
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in statuses)


def test_executor_is_idle_after_a_loop(make_executor):
    executor = make_executor()

    async def main():
        loop.stop()  # after this step, before it polls
        asyncio.wrap_future(executor.submit(square, 3)).cancelled()  # adds a callback

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()

    def is_idle():
        before = sleeps_of_threads()
        time.sleep(0.2)  # in which a thread that naps would be counted some 150 times
        return sleeps_of_threads() - before < 20

    wait_until(is_idle)


def test_result_after_the_end_of_the_loop(executor, gate):
    async def main():
        call = executor.submit(hold, gate.path, "held")
        asyncio.wrap_future(call).cancelled()  # adds a callback
        gate.wait_until_begun()
        return call

    call = asyncio.run(main())
    gate.open()
    assert call.result(LIMIT_S) == "held"
    assert executor.submit(square, 2).result(LIMIT_S) == 4


def test_the_loop_stops_and_runs_again(executor, gate):
    loop = asyncio.new_event_loop()

    async def begin():
        return asyncio.wrap_future(executor.submit(hold, gate.path, "held"))

    try:
        awaited = loop.run_until_complete(begin())
        gate.open()
        assert loop.run_until_complete(asyncio.wait_for(awaited, LIMIT_S)) == "held"
    finally:
        loop.close()


def test_cancelled_task_cancels_its_waiting_call(make_executor, gate):
    executor = make_executor(max_workers=1)
    held = executor.submit(hold, gate.path, "held")
    gate.wait_until_begun()

    async def main():
        call = executor.submit(hold, gate.path)  # waits: the worker has prefetched it at most
        task = asyncio.ensure_future(asyncio.wrap_future(call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return call

    call = asyncio.run(main())
    assert call.cancelled()
    gate.open()
    assert held.result(LIMIT_S) == "held"
