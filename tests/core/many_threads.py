"""Many threads use executors in every way for some seconds: a program for ThreadSanitizer, which reports their data races.

python many_threads.py SECONDS
"""

from __future__ import annotations

import asyncio
import operator
import random
import sys
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait
from contextlib import suppress

from pympipool import Executor

LIMIT_S = 60


def submit_and_read(exe, go_on):
    while go_on():
        assert exe.submit(operator.add, 1, 2).result(LIMIT_S) == 3


def cancel_and_wait(exe, go_on):
    while go_on():
        futures = [exe.submit(operator.add, number, 1) for number in range(50)]
        for future in futures:
            future.add_done_callback(lambda _: None)
            if random.random() < 0.5:
                future.cancel()
            future.running()
        wait(futures, LIMIT_S)
        for future in as_completed(futures, LIMIT_S):
            with suppress(CancelledError):
                future.result(LIMIT_S)


def depend(exe, go_on):
    while go_on():
        future = exe.submit(operator.add, 0, 1)
        for _ in range(20):
            future = exe.submit(operator.add, future, 1)
        assert future.result(LIMIT_S) == 21


def map_batches(exe, go_on):
    while go_on():
        assert sum(exe.map(operator.add, range(200), range(200))) == 200 * 199


def poll(exe, go_on):
    while go_on():
        future = exe.submit(time.sleep, 0.001)
        while not future.done():
            pass


def look(exe, go_on):
    while go_on():
        repr(exe)
        assert exe.info
        time.sleep(0.001)


def use_asyncio(exe, go_on):
    async def use():
        while go_on():
            assert await asyncio.wrap_future(exe.submit(operator.add, 1, 1)) == 2
            await asyncio.gather(*(asyncio.wrap_future(exe.submit(abs, number)) for number in range(20)))

    asyncio.run(use())


def cancel_by_force(exe, go_on):
    while go_on():
        future = exe.submit(time.sleep, LIMIT_S)
        while not future.running():
            assert not future.done()
        assert future.cancel(force=True)


def run_together(exe, seconds, uses):
    """Run functions in a thread each; raise what one of them has raised."""
    end_s = time.monotonic() + seconds
    raised = []

    def run(use):
        try:
            use(exe, lambda: time.monotonic() < end_s and not raised)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(use,)) for use in uses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in raised:
        raise error


def main(seconds):
    uses = [submit_and_read, submit_and_read, cancel_and_wait, depend, map_batches, poll, look, use_asyncio]
    with Executor(max_workers=2, block_allocation=True, backend="mpi") as exe:
        run_together(exe, seconds, uses)
    with Executor(max_workers=2, block_allocation=True, backend="mpi") as exe:
        run_together(exe, seconds / 4, [submit_and_read, cancel_by_force])
    with Executor(max_workers=2, backend="mpi") as exe:
        run_together(exe, seconds / 4, [submit_and_read, cancel_and_wait])
    print("good")


if __name__ == "__main__":
    main(float(sys.argv[1]))
