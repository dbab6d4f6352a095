"""Interrupts executors at random moments, round after round, in both lifetimes.

    python tests/support/interrupt_rounds.py [rounds [seed]]

In each round the handler of an alarm raises KeyboardInterrupt some time after an executor was made, while methods are
called again and again. Then the executor is shut down or killed. Either that ends within a time limit, or some call does;
else the program prints the round and all stacks, and exits with 1.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures as cf
import contextlib
import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import time

from pympipool import Executor, batched, get_item_from_future, progress, split_future, trace

LIMIT_S = 30.0


def plain(exe):
    exe.submit(pow, 2, 3)


def dependent(exe):
    exe.submit(max, [exe.submit(pow, 2, 3), exe.submit(pow, 2, 4)])


GIVEN: list[cf.Future] = []
TRACES: list[trace] = []


def foreign(exe):
    given = cf.Future()
    GIVEN.append(given)
    exe.submit(pow, given, 3)
    given.set_result(2)


def end_given():
    """Set the results that an interrupt has kept from being set: executors wait for them. End traces likewise."""
    while TRACES:
        with contextlib.suppress(RuntimeError):  # it has not begun, or has ended
            TRACES.pop().stop()
    while GIVEN:
        given = GIVEN.pop()
        if not given.done():
            given.set_result(2)


def mapped(exe):
    list(exe.map(abs, range(20)))


def map_left(exe):
    exe.map(abs, range(20))


def in_chunks(exe):
    list(exe.map(abs, range(20), chunksize=6))


def cancelled(exe):
    calls = [exe.submit(pow, 2, 3) for _ in range(3)]
    for call in reversed(calls):
        call.cancel()


def asked(exe):
    call = exe.submit(pow, 2, 3)
    call.add_done_callback(str)
    call.done(), call.running(), repr(call), repr(exe), len(exe)
    call.exception(60)
    call.result()


def waited(exe):
    cf.wait([exe.submit(pow, 2, 3) for _ in range(3)])


def first_completed(exe):
    cf.wait([exe.submit(pow, 2, 3) for _ in range(3)], return_when=cf.FIRST_COMPLETED)


def completed(exe):
    list(cf.as_completed([exe.submit(pow, 2, 3) for _ in range(3)]))


def awaited(exe):
    async def ask():
        await asyncio.wrap_future(exe.submit(pow, 2, 3))

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask())
    finally:
        loop.close()


def resized(exe):
    exe.max_workers = 3
    exe.max_workers = 2


def made(exe):
    other = Executor(backend="mpi", max_workers=1, block_allocation=exe.info["block_allocation"])
    with other:
        other.submit(pow, 2, 3)


def dropped(exe):
    Executor(backend="mpi", max_workers=1, block_allocation=exe.info["block_allocation"]).submit(pow, 2, 3)


def shown(exe):
    exe.submit(pow, 2, 3)
    exe.info, exe.max_workers, len(exe), repr(exe), exe._repr_html_()


def joined(exe):
    calls = [exe.submit(divmod, 7, 3) for _ in range(2)]
    exe.submit(len, batched(calls, 2)[0]).result()
    exe.submit(len, exe.batched(calls, 2)[0])
    split_future(calls[0], 2)[1].result()
    exe.submit(abs, get_item_from_future(calls[1], 0)).result()


def timed_out(exe):
    calls = [exe.submit(time.sleep, 0.002) for _ in range(3)]
    for ask in (calls[2].result, calls[2].exception):
        with contextlib.suppress(TimeoutError):
            ask(timeout=0.0005)
    cf.wait(calls, timeout=0.0005)
    with contextlib.suppress(TimeoutError):
        list(cf.as_completed(calls, timeout=0.0005))
    with contextlib.suppress(TimeoutError):
        list(exe.map(time.sleep, [0.002] * 3, timeout=0.0005))


def map_closed(exe):
    results = exe.map(abs, range(20))
    next(results)
    results.close()


def failing(exe):
    calls = [exe.submit(divmod, 1, 0), exe.submit(abs, "text")]
    exe.submit(abs, calls[0]).exception()
    cf.wait(calls, return_when=cf.FIRST_EXCEPTION)


def run_in_loop(exe):
    async def ask():
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(exe, pow, 2, 3) for _ in range(3)), return_exceptions=True)

    asyncio.run(ask())


def with_bars(exe):
    progress([exe.submit(pow, 2, 3)], disable=True)
    list(exe.map(abs, range(20), progress=True))


def traced(exe):
    record = trace()
    TRACES.append(record)
    with record:
        exe.submit(pow, 2, 3).result()
    record.summary()


def in_this_process(exe):
    with Executor(backend="serial") as serial:
        call = serial.submit(pow, 2, 3)
        serial.submit(pow, call, 3).result()
        list(serial.map(abs, range(3)))


def shut_down(exe):
    exe.submit(pow, 2, 3)
    exe.shutdown(wait=random.random() < 0.7, cancel_futures=random.random() < 0.5)


def left(exe):
    with exe:
        exe.submit(pow, 2, 3)


def killed(exe):
    exe.submit(pow, 2, 3)
    exe.kill_workers() if random.random() < 0.5 else exe.terminate_workers()


def shut_down_by_force(exe):
    exe.submit(pow, 2, 3)
    exe.shutdown(wait=random.random() < 0.7, kill_workers=True)


def cancelled_by_force(exe):
    call = exe.submit(time.sleep, 0.01)
    time.sleep(random.random() * 0.005)  # it may run by then
    call.cancel(force=True)
    call.cancelled() or call.exception()


def retried(exe):
    retries = {"retries": 2, "retry_on": (ZeroDivisionError,), "retry_delay": random.choice([0, 0.001])}
    call = exe.submit(divmod, 1, 0, resource_dict=retries)
    call.exception(60)
    repr([call.attempts, call.retried_errors])


def map_unordered(exe):
    list(exe.map(abs, range(20), unordered=True))
    list(exe.starmap(pow, [(2, 3)] * 5))


def map_buffered(exe):
    results = exe.map(abs, iter(int, 1), buffersize=4)
    for _ in range(10):
        next(results)
    results.close()


ACTIONS = [
    plain, dependent, foreign, mapped, map_left, map_closed, in_chunks, cancelled, asked, failing, timed_out, waited,
    first_completed, completed, awaited, run_in_loop, resized, made, dropped, shown, joined, with_bars, traced,
    in_this_process, shut_down, left, killed, shut_down_by_force, cancelled_by_force, retried, map_unordered, map_buffered,
]  # fmt: skip


def main(rounds: int, seed: int) -> int:
    random.seed(seed)
    signal.signal(signal.SIGALRM, interrupt)
    counts: collections.Counter[str] = collections.Counter()
    begin_s = time.monotonic()
    for number in range(rounds):
        block_allocation = number % 2 == 0
        exe = Executor(backend="mpi", max_workers=2, block_allocation=block_allocation)
        action = random.choice(ACTIONS)
        if block_allocation:
            exe.submit(pow, 2, 3).result()
        what = run_interrupted(exe, action)
        counts[f"{action.__name__}: {what}"] += 1
        kill = random.random() < 0.5
        function, args = (exe.__exit__, (KeyboardInterrupt, None, None)) if kill else (exe.shutdown, ())
        end = threading.Thread(target=function, args=args, daemon=True)
        end.start()
        if hangs(exe, end):
            word = "kill" if kill else "shutdown"
            print(
                f"round {number} of seed {seed}: {action.__name__}, block_allocation={block_allocation}: {word} HANGS;"
                f" calls that have not ended: {unfinished(exe)}"
            )
            sys.stdout.flush()
            faulthandler.dump_traceback()
            return 1
    gc.collect()  # executors that were dropped may be in the frames of an interrupt, which refer to each other
    deadline_s = time.monotonic() + LIMIT_S
    while threads := [thread.name for thread in threading.enumerate() if thread.name.startswith("pympipool_")]:
        if time.monotonic() > deadline_s:  # those of executors that were dropped need a moment
            break
        time.sleep(0.1)  # polls: threads of executors that nobody refers to cannot be joined
    print(f"{rounds} rounds of seed {seed} in {time.monotonic() - begin_s:.0f} s, 0 hangs, threads left: {threads}")
    print(dict(sorted(counts.items())))
    return bool(threads)


def unfinished(exe):
    return exe._engine.dispatcher.unfinished_count, exe._engine._pending_count()


def hangs(exe, end):
    """Wait for the end of an executor; return True if there was none, and no call has ended either, within the limit."""
    before = None
    while unfinished(exe) != before:  # a busy machine needs long for many calls
        before = unfinished(exe)
        end.join(LIMIT_S)
        if not end.is_alive():
            return exe._engine.pool.loop.thread.is_alive()
    return True


armed = False


def interrupt(*_):
    if armed:
        raise KeyboardInterrupt


def run_interrupted(exe, action) -> str:
    global armed
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, random.choice([0.004, 0.03])), 0.003)
        try:
            while True:
                action(exe)
        except RuntimeError as error:
            return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        end_given()


if __name__ == "__main__":
    code = main(*map(int, [*sys.argv[1:], *("200", str(random.randrange(10**6)))[len(sys.argv) - 1 :]]))
    sys.stdout.flush()
    os._exit(code)
