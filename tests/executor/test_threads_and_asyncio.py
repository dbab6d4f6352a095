"""An executor used from many threads, from callbacks, from signal handlers and from asyncio."""

import asyncio
import signal
import threading
import time
from concurrent import futures

import pytest

from support.calls import add, divide, fail, hold, hold_or_square, square
from support.waiting import wait_until

pytestmark = pytest.mark.anywhere


def in_threads(count, function):
    """Run function(number) in this many threads, started at the same moment, and return their results."""
    together = threading.Barrier(count)

    def run(number):
        together.wait()
        return function(number)

    with futures.ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


# ---- threads ----


def test_many_threads_submit_and_wait_concurrently(executor, many):
    count = many(200, 5)

    def work(number):
        return [executor.submit(add, number, i).result() for i in range(count)]

    assert in_threads(8, work) == [[number + i for i in range(count)] for number in range(8)]


def test_many_threads_submit_first_and_wait_then(executor, many):
    count = many(500, 5)

    def work(number):
        calls = [executor.submit(add, number, i) for i in range(count)]
        return [call.result() for call in calls]

    assert in_threads(6, work) == [[number + i for i in range(count)] for number in range(6)]


def test_many_threads_use_map(executor, many):
    count = many(200, 8)
    assert in_threads(4, lambda _: list(executor.map(square, range(count)))) == [[i * i for i in range(count)]] * 4


def test_one_thread_submits_and_another_waits(executor, many):
    calls = []
    count = many(500, 20)
    submitted = threading.Semaphore(0)

    def submit():
        for i in range(count):
            calls.append(executor.submit(square, i))
            submitted.release()

    thread = threading.Thread(target=submit)
    thread.start()
    for i in range(count):
        submitted.acquire()
        assert calls[i].result() == i * i
    thread.join()


def test_many_threads_wait_for_the_same_call(make_executor, gate):
    call = make_executor().submit(hold, gate.path, "held")
    gate.wait_until_begun()

    def wait(number):
        if number == 7:
            gate.open()
        return call.result()

    assert in_threads(8, wait) == ["held"] * 8


def test_each_waiting_thread_gets_its_own_result(make_executor, make_gate):
    exe = make_executor(max_workers=2)
    gates = [make_gate(), make_gate()]
    calls = [exe.submit(hold, gate.path, i) for i, gate in enumerate(gates)]
    for gate in gates:
        gate.wait_until_begun()
    with futures.ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(call.result) for call in calls]
        gates[1].open()
        assert waiting[1].result() == 1
        gates[0].open()
        assert waiting[0].result() == 0


def test_timeout_in_one_thread_keeps_others_waiting(make_executor, gate):
    call = make_executor().submit(hold, gate.path, "held")
    gate.wait_until_begun()
    with futures.ThreadPoolExecutor(2) as threads:
        impatient, patient = threads.submit(call.result, 0.05), threads.submit(call.result)
        with pytest.raises(futures.TimeoutError):
            impatient.result()
        gate.open()
        assert patient.result() == "held"


def test_concurrent_submit_and_shutdown_lose_no_call(make_executor, many):
    for _ in range(many(3, 1)):
        exe = make_executor()
        calls, some_came = [], threading.Event()

        def work(number, exe=exe, calls=calls, some_came=some_came):
            if number == 0:
                assert some_came.wait(60)
                exe.shutdown()
                return
            for _ in range(many(100_000, 50)):
                try:
                    calls.append(exe.submit(square, 3))
                except RuntimeError as error:
                    assert "after shutdown" in str(error)
                    return
                if len(calls) >= 20:
                    some_came.set()

        in_threads(4, work)
        assert {call.result(timeout=60) for call in calls} == {9}


# ---- callbacks ----


def test_callbacks_are_called_once_with_the_future(make_executor, gate):
    told = []
    call = make_executor().submit(hold, gate.path)
    for _ in range(3):
        call.add_done_callback(told.append)
    called = threading.Event()
    call.add_done_callback(lambda _: called.set())
    gate.open()
    assert called.wait(60)
    assert told == [call] * 3


def test_callbacks_run_without_a_waiting_thread(executor):
    called = threading.Event()
    executor.submit(square, 3).add_done_callback(lambda _: called.set())
    assert called.wait(60)


def test_callbacks_of_calls_that_fail_are_called(executor):
    errors = []
    called = threading.Event()

    def take(call):
        errors.append(call.exception())
        called.set()

    executor.submit(fail).add_done_callback(take)
    assert called.wait(60)
    assert isinstance(errors[0], ValueError)


def test_callback_added_later_runs_immediately(executor):
    told = []
    call = executor.submit(square, 3)
    call.result()
    call.add_done_callback(lambda call: told.append((call.result(), threading.current_thread())))
    assert told == [(9, threading.current_thread())]


def test_failing_callback_has_no_other_effect(make_executor, gate, caplog):
    exe = make_executor()
    called = threading.Event()

    def bad(_):
        raise LookupError("in a callback")

    call = exe.submit(hold, gate.path, 9)
    call.add_done_callback(bad)
    call.add_done_callback(lambda _: called.set())
    gate.open()
    assert call.result() == 9
    assert called.wait(60)
    assert "in a callback" in caplog.text
    assert exe.submit(square, 4).result() == 16


def test_callback_may_submit_and_wait(executor):
    results = []
    called = threading.Event()

    def go_on(call):
        results.append(executor.submit(add, call.result(), 1).result())
        called.set()

    executor.submit(square, 3).add_done_callback(go_on)
    assert called.wait(60)
    assert results == [10]


@pytest.fixture
def slow_callback(executor):
    """A callback that runs until the end of the test."""
    may_end, runs = threading.Event(), threading.Event()

    def slow(_):
        runs.set()
        may_end.wait()

    executor.submit(square, 1).add_done_callback(slow)
    assert runs.wait(60)
    yield
    may_end.set()


def test_slow_callback_does_not_delay_result(executor, slow_callback, many):
    count = many(100, 5)

    def work(_):
        return [executor.submit(square, i).result(timeout=60) for i in range(count)]

    assert work(0) == [i * i for i in range(count)]
    assert in_threads(4, work) == [work(0)] * 4


def test_slow_callback_does_not_delay_several_results(executor, slow_callback):
    calls = [executor.submit(square, i) for i in range(10)]
    assert futures.wait(calls, timeout=60).done == set(calls)


def test_callback_and_thread_may_wait_concurrently(make_executor, make_gate):
    exe = make_executor(max_workers=3)
    first, second = make_gate(), make_gate()
    calls = [exe.submit(hold, gate.path, "held") for gate in (first, second)]
    first.wait_until_begun()
    second.wait_until_begun()
    waits, results = threading.Event(), []
    has_result = threading.Event()

    def wait(_):
        waits.set()
        results.append(calls[1].result(timeout=60))
        has_result.set()

    with futures.ThreadPoolExecutor(1) as threads:
        helper = threads.submit(calls[0].result)
        wait_until(helper.running)
        exe.submit(square, 1).add_done_callback(wait)
        assert waits.wait(60)
        first.open()
        assert helper.result() == "held"
    second.open()
    assert has_result.wait(60)
    assert results == ["held"]


def test_callbacks_of_many_calls_are_all_called(executor, many):
    count = many(2000, 20)
    told = []
    all_told = threading.Event()

    def tell(call):
        told.append(call.result())
        if len(told) == count:
            all_told.set()

    for i in range(count):
        executor.submit(square, i).add_done_callback(tell)
    assert all_told.wait(60)
    assert sorted(told) == [i * i for i in range(count)]


def wait_for_one(call):
    return futures.wait([call], timeout=60)


def complete_one(call):
    return list(futures.as_completed([call], timeout=60))


@pytest.mark.parametrize("wait", ["result", "exception", wait_for_one, complete_one])
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_callbacks_have_run_when_waiting_ends(executor, many, wait, seconds):
    for _ in range(many(50, 5)):
        told = []
        call = executor.submit(time.sleep, seconds)
        call.add_done_callback(told.append)
        call.add_done_callback(told.append)
        getattr(call, wait)() if isinstance(wait, str) else wait(call)
        assert told == [call, call]


def test_callbacks_have_run_in_every_waiting_thread(executor, many):
    def work(_):
        late = 0
        for i in range(many(50, 5)):
            told = []
            call = executor.submit(square, i)
            call.add_done_callback(told.append)
            call.result()
            late += not told
        return late

    assert in_threads(3, work) == [0] * 3


def test_callbacks_have_run_when_their_call_failed(executor, many):
    for _ in range(many(50, 5)):
        told = []
        call = executor.submit(fail)
        call.add_done_callback(told.append)
        assert isinstance(call.exception(), ValueError)
        assert told == [call]


@pytest.mark.parametrize("wait", ["result", "exception", wait_for_one, complete_one])
def test_blocking_callback_does_not_block_waiting_threads(make_executor, gate, wait):
    call = make_executor().submit(hold, gate.path)
    may_end = threading.Event()
    call.add_done_callback(lambda _: may_end.wait())
    gate.open()
    getattr(call, wait)() if isinstance(wait, str) else wait(call)
    assert not may_end.is_set()
    may_end.set()


def test_callback_may_read_its_own_future(executor):
    told = []
    call = executor.submit(square, 3)
    call.add_done_callback(lambda call: told.append((call.result(), futures.wait([call]).done)))
    call.result()
    assert told == [(9, {call})]


def test_callback_may_add_callbacks(executor):
    told = []
    call = executor.submit(square, 3)
    call.add_done_callback(lambda call: call.add_done_callback(told.append))
    call.result()
    assert told == [call]


def test_callback_of_input_does_not_delay_call(executor, slow_callback):
    first = executor.submit(square, 3)
    first.add_done_callback(lambda _: None)  # waits behind the slow one
    assert executor.submit(square, first).result(timeout=60) == 81


# ---- signal handlers ----


def test_signal_handler_may_wait_while_program_waits(make_executor, gate):
    exe = make_executor(max_workers=2)
    results = []

    def handle(*_):
        results.append(exe.submit(square, 3).result())
        gate.open()

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        call = exe.submit(hold, gate.path, "held")
        gate.wait_until_begun()
        sender = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        sender.start()
        assert call.result() == "held"
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert results == [9]


def test_exception_in_signal_handler_ends_only_wait(make_executor, gate):
    exe = make_executor()

    def handle(*_):
        raise InterruptedError("by the handler")

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        call = exe.submit(hold, gate.path, "held")
        gate.wait_until_begun()
        sender = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))

        def wait():
            sender.start()
            call.result()

        with pytest.raises(InterruptedError):
            wait()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    gate.open()
    assert call.result() == "held"


# ---- asyncio ----


def test_asyncio_runs_calls_in_the_executor(executor, many):
    count = many(200, 20)

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, i) for i in range(count)))

    assert asyncio.run(main()) == [i * i for i in range(count)]


def test_asyncio_gets_the_exceptions_of_calls(executor):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(executor, divide, 1, 0)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_event_loop_runs_during_calls(make_executor, gate):
    exe = make_executor()

    async def main():
        held = asyncio.get_running_loop().run_in_executor(exe, hold, gate.path, "held")
        await asyncio.to_thread(gate.wait_until_begun)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not held.done()
        gate.open()
        return await held

    assert asyncio.run(main()) == "held"


def test_asyncio_cancels_calls(make_executor, gate):
    exe = make_executor()

    async def main():
        running = asyncio.get_running_loop().run_in_executor(exe, hold, gate.path, "held")
        await asyncio.to_thread(gate.wait_until_begun)
        waiting = exe.submit(square, 2)
        asyncio.wrap_future(waiting).cancel()
        await asyncio.to_thread(futures.wait, [waiting], 60)
        assert waiting.cancelled()
        gate.open()
        return await running

    assert asyncio.run(main()) == "held"


def test_asyncio_timeout_is_kept(make_executor, gate):
    exe = make_executor()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(exe.submit(hold, gate.path)), 0.05)
        gate.open()
        return await asyncio.get_running_loop().run_in_executor(exe, square, 5)

    assert asyncio.run(main()) == 25


def test_asyncio_gets_results_in_completion_order(make_executor, gate):
    exe = make_executor(max_workers=2)

    async def main():
        calls = [asyncio.wrap_future(exe.submit(hold_or_square, gate.path, number, 2)) for number in (2, 1)]
        results = []
        for call in asyncio.as_completed(calls):
            results.append(await call)
            gate.open()
        return results

    assert asyncio.run(main()) == [1, 4]
