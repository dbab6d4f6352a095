"""`concurrent.futures.wait` and `as_completed` with our futures, alone and mixed with other futures."""

from concurrent import futures

import pytest

from support.calls import fail, hold, square

pytestmark = pytest.mark.anywhere


@pytest.fixture
def held(make_executor, gate):
    """Return an executor of two workers, one of which runs a call that waits at a gate, and that call."""
    exe = make_executor(max_workers=2)
    call = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    return exe, call


def test_wait_for_all_waits_for_all(executor, many):
    calls = [executor.submit(square, i) for i in range(many(300, 20))]
    done, pending = futures.wait(calls)
    assert done == set(calls)
    assert pending == set()
    assert sorted(call.result() for call in done) == [i * i for i in range(many(300, 20))]


def test_first_completed_returns_while_another_call_runs(held):
    exe, running = held
    quick = exe.submit(square, 3)
    assert futures.wait([running, quick], return_when=futures.FIRST_COMPLETED) == ({quick}, {running})


def test_first_completed_of_running_calls(held, gate):
    exe, running = held
    behind = exe.submit(hold, gate.path, "second")
    gate.wait_until_begun()
    gate.open()
    done, pending = futures.wait([running, behind], return_when=futures.FIRST_COMPLETED)
    assert len(done) >= 1
    gate.open()
    assert {call.result() for call in done | pending} == {"held", "second"}


def test_first_exception_returns_while_another_call_runs(held):
    exe, running = held
    fine, bad = exe.submit(square, 3), exe.submit(fail)
    done, pending = futures.wait([running, fine, bad], return_when=futures.FIRST_EXCEPTION)
    assert bad in done
    assert running in pending


def test_first_exception_waits_for_all_without_exception(executor):
    calls = [executor.submit(square, i) for i in range(20)]
    assert futures.wait(calls, return_when=futures.FIRST_EXCEPTION).done == set(calls)


def test_wait_times_out(held):
    exe, running = held
    quick = exe.submit(square, 3)
    assert quick.result() == 9
    assert futures.wait([running, quick], timeout=0.01) == ({quick}, {running})
    assert futures.wait([running], timeout=0) == (set(), {running})


def test_a_cancelled_call_counts_as_done(make_executor, gate):
    exe = make_executor()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    cancelled = exe.submit(square, 1)
    assert cancelled.cancel()
    assert futures.wait([running, cancelled], return_when=futures.FIRST_COMPLETED) == ({cancelled}, {running})
    assert list(futures.as_completed([cancelled])) == [cancelled]


def test_as_completed_yields_each_call_once(executor, many):
    calls = [executor.submit(square, i) for i in range(many(300, 20))]
    yielded = list(futures.as_completed([*calls, *calls]))
    assert len(yielded) == len(calls)
    assert set(yielded) == set(calls)


def test_as_completed_yields_in_completion_order(held, gate):
    exe, running = held
    quick = exe.submit(square, 3)
    results = futures.as_completed([running, quick])
    assert next(results) is quick
    gate.open()
    assert next(results) is running
    assert list(results) == []


def test_as_completed_times_out(held):
    exe, running = held
    quick = exe.submit(square, 3)
    assert quick.result() == 9
    results = futures.as_completed([running, quick], timeout=0.05)
    assert next(results) is quick
    with pytest.raises(futures.TimeoutError):
        next(results)


def test_as_completed_yields_failed_calls(executor):
    calls = {executor.submit(fail, str(i)) for i in range(5)}
    assert {str(call.exception()) for call in futures.as_completed(calls)} == {str(i) for i in range(5)}


def test_wait_accepts_calls_of_several_executors(executor, make_executor):
    with futures.ThreadPoolExecutor(2) as threads:
        exes = [executor, make_executor(), threads]
        calls = [exe.submit(square, i) for i in range(20) for exe in exes]
        assert futures.wait(calls).done == set(calls)
        assert set(futures.as_completed(calls)) == set(calls)
    assert sorted(call.result() for call in calls) == sorted(3 * [i * i for i in range(20)])


def test_as_completed_works_while_calls_are_submitted(executor, many):
    count = many(200, 20)
    pending = {executor.submit(square, 0)}
    results = []
    for i in range(1, count):
        done, pending = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
        results += [call.result() for call in done]
        pending.add(executor.submit(square, i))
    results += [call.result() for call in futures.wait(pending).done]
    assert sorted(results) == [i * i for i in range(count)]
