"""A worker serves small calls in one step of C, `SmallCalls`. All other messages are left to Python code as they are."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import weakref

import numpy as np
import pytest

from pympipool._core import ring
from pympipool._core.channel import Channel, LostMessage, MasterChannel
from pympipool._core.ring import CACHED, CALL, END, ERROR, FUNCTION, RESULT, TRACED
from pympipool._core.worker_calls import SmallCalls
from pympipool.serialization import payload
from pympipool.serialization.plain import SCALARS
from pympipool.serialization.tracebacks import describe_place, format_exception
from pympipool.worker.call_runner import CallRunner, Kept
from support.no_memory import run_without_memory

NUMBER = 5
LIMIT_S = 30.0

SLOW = ("x" * 3_000_000).count
"""A compiled function that takes about a millisecond, and does not release the GIL."""


class Worker:
    """A worker in this process, and its master. `answers` has how calls ended that are not answered in C."""

    def __init__(self, function, returned=None, **options):
        link, doorbells = ring.link_segment(), ring.doorbell_segment()
        self.master, self.channel = MasterChannel(link, doorbells), Channel(link, doorbells)
        self.runner = CallRunner({})
        self.answers = []
        self.calls = SmallCalls(self.channel, self.runner, SCALARS, returned or self.returned, self.raised, **options)
        self.runner.remember(NUMBER, payload.dump_function(function, False))
        self.make_ready()

    def make_ready(self):
        """Have the function unpickled, as the first call that refers to it does, but not run."""
        self.runner._enter_script(self.runner.functions[NUMBER])

    def returned(self, result):
        self.answers.append(("returned", type(result)))
        return RESULT, 0, payload.dump(repr(result))

    def raised(self, call, error):
        self.answers.append(("raised", call, format_exception(error), describe_place(error)))
        return ERROR, 0, payload.dump(repr(error))

    def add(self, number, function):
        """Have the worker know a function that is never compared with what was sent."""
        self.runner.functions[number] = kept = Kept(number, function)
        kept.script, kept.is_current = self.runner.script, lambda: True

    def send(self, call, *args, number=NUMBER, **kwargs):
        self.master.send(CALL, call, number, payload.dump_call(number, None, args, kwargs), LIMIT_S)

    def serve(self):
        """Serve until END, and return it."""
        self.master.send(END, 0, 0, [b""], LIMIT_S)
        return self.calls.receive()

    def result(self):
        """Return (kind, call, value) of the next answer."""
        kind, call, _, parts = self.master.receive(LIMIT_S)
        return kind, call, payload.load(parts)


def echo(*args, **kwargs):
    return (*args, *kwargs.items())


def fail(*_args):
    return 1 / 0


def make_set(*items):
    return set(items)


def test_small_calls_are_served_until_another_message():
    worker = Worker(echo)
    worker.send(7)
    worker.send(8, 1, "two", [3.0, {"four": None}])
    worker.send(9, 1, key=True)
    assert worker.serve() == (END, 0, 0, [b""])
    results = [worker.result() for _ in range(3)]
    assert results == [(RESULT, 7, ()), (RESULT, 8, (1, "two", [3.0, {"four": None}])), (RESULT, 9, (1, ("key", True)))]
    assert worker.answers == []


@pytest.mark.parametrize(
    ("call", "number", "parts"),
    [
        (7 | TRACED, NUMBER, payload.dump_call(NUMBER, None, (1,), {})),
        (7 | CACHED, NUMBER, payload.dump_call(NUMBER, None, (1,), {})),
        (7, 0, payload.dump_call(0, len, ((),), {})),
        (7, NUMBER + ring.FUNCTION_CACHE_SIZE, payload.dump_call(NUMBER, None, (1,), {})),
        (7, NUMBER, payload.dump_call(NUMBER, None, ({1},), {})),
        (7, NUMBER, payload.dump_call(NUMBER, None, ("x" * 1000,), {})),
        (7, NUMBER, payload.dump_call(NUMBER, None, ([1, 2],), payload.BATCH)),
        (7, NUMBER, [*payload.dump_call(NUMBER, None, (1,), {}), b"a buffer"]),
        (7, NUMBER, payload.dump((1, {}, 2))),
        (7, NUMBER, payload.dump((1, {}))),
        (7, NUMBER, payload.dump(1)),
        (7, NUMBER, [b"no pickle"]),
        (7, NUMBER, [pickle.dumps((("ab",), {}), 5).replace(b"ab", b"\xff\xfe")]),
    ],
)
def test_other_calls_are_left_as_they_are(call, number, parts):
    worker = Worker(echo)
    worker.master.send(CALL, call, number, parts, LIMIT_S)
    kind, received, tag, arrived = worker.serve()
    assert (kind, received, tag, [bytes(part) for part in arrived]) == (CALL, call, number, [*map(bytes, parts)])


def test_function_of_the_script_must_be_entered():
    worker = Worker(echo)
    worker.runner.functions[NUMBER].script = {"helper": len}
    worker.send(7)
    assert worker.calls.receive()[:2] == (CALL, 7)
    worker.make_ready()
    worker.send(8)
    worker.serve()
    assert worker.result() == (RESULT, 8, ())
    worker.runner._leave_script()  # as shared data that have ended ask for


def test_new_function_is_left_to_python_code():
    worker = Worker(echo)
    worker.master.send(FUNCTION, 0, NUMBER, payload.dump_function(len, False), LIMIT_S)
    kind, _, number, parts = worker.calls.receive()
    assert kind == FUNCTION
    worker.runner.remember(number, parts)
    worker.send(7, "abc")
    _, _, _, parts = worker.calls.receive()
    assert worker.runner.run(NUMBER, parts) == 3
    worker.send(8, "abcd")
    worker.serve()
    assert worker.result() == (RESULT, 8, 4)


def test_changed_function_is_unpickled_again():
    worker = Worker(echo)
    worker.runner.functions[NUMBER].is_current = lambda: False
    worker.runner.functions[NUMBER].function = fail
    worker.send(7, 1)
    worker.serve()
    assert worker.result() == (RESULT, 7, (1,))


def test_exception_shows_only_frames_of_the_user():
    worker = Worker(fail)
    worker.send(7, 1)
    worker.send(8, key=1)
    worker.serve()
    assert worker.result() == (ERROR, 7, "ZeroDivisionError('division by zero')")
    worker.result()
    (_, call, shown, _), (_, _, compiled, _) = worker.answers
    assert call == 7
    assert "return 1 / 0" in shown
    assert "_core" not in shown
    assert "\n" not in compiled  # the function had a wrong argument: it has no frame


def test_exception_has_one_place_on_both_ways():
    worker = Worker(fail)
    worker.send(7)
    worker.serve()
    with pytest.raises(ZeroDivisionError) as raised:
        worker.runner.run(NUMBER, payload.dump_call(NUMBER, None, (), {}))
    error = raised.value.with_traceback(raised.tb.tb_next)  # without the frame of this test
    assert describe_place(error) == worker.answers[0][3]


def test_place_tells_arguments_from_the_function():
    worker, places = Worker(bytearray), []
    for argument in (LostMessage(MemoryError()), 1 << 62):
        with pytest.raises(MemoryError) as raised:
            worker.runner.run(NUMBER, payload.dump_call(NUMBER, None, (argument,), {}))
        places.append(describe_place(raised.value.with_traceback(raised.tb.tb_next)))
    assert places[0] != places[1]


def test_exception_raised_again_has_one_place():
    places = []
    for is_small in (True, False):
        error = ValueError("always the same object")

        def raise_again(error=error):
            raise error

        worker = Worker(echo)
        worker.runner.functions[NUMBER].function = raise_again
        if is_small:
            worker.send(7)
            worker.serve()
        else:
            with pytest.raises(ValueError, match="the same object"):
                worker.runner.run(NUMBER, payload.dump_call(NUMBER, None, (), {}))
            error.__traceback__ = error.__traceback__.tb_next  # without the frame of this test
        worker.send(8)
        worker.serve()
        places.append(worker.answers[-1][3])
    assert places[0] == places[1]
    assert places[0].count(b"test_worker_calls.py") == 2


def test_builtin_function_sees_one_module_on_both_ways():
    worker = Worker(eval)
    worker.send(7, "__name__")
    worker.serve()
    assert worker.result()[2] == worker.runner.run(NUMBER, payload.dump_call(NUMBER, None, ("__name__",), {}))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError, StopIteration])
def test_every_kind_of_exception_ends_only_its_call(kind):
    worker = Worker(echo)
    worker.runner.functions[NUMBER].function = lambda: (_ for _ in ()).throw(kind)
    worker.send(7)
    assert worker.serve()[0] == END
    assert worker.result()[:2] == (ERROR, 7)


def test_other_results_are_left_to_python_code():
    worker = Worker(make_set)
    worker.send(7, 1)
    worker.serve()
    assert worker.answers == [("returned", set)]
    assert worker.result() == (RESULT, 7, "{1}")


def test_rank_without_result_answers_with_empty_part():
    worker = Worker(make_set, has_result=False)
    worker.send(7, 1)
    worker.serve()
    assert worker.master.receive(LIMIT_S)[3] == [b""]
    assert worker.answers == []


def test_result_is_dropped_before_it_is_sent():
    """Its finalizer may do what the master expects."""
    results, alive = [], []

    class Thing:
        def __init__(self):
            results.append(weakref.ref(self))

    class Outcome:
        def __int__(self):  # called when the answer is sent
            alive.append(results[0]() is not None)
            return 0

    worker = Worker(echo, returned=lambda _result: (RESULT, Outcome(), [b"sent"]))
    worker.runner.functions[NUMBER].function = Thing
    worker.send(7)
    worker.serve()
    assert alive == [False]


@pytest.mark.parametrize(("make", "has_result"), [(lambda: {1}, False), (lambda: np.arange(3), True)])
def test_small_result_is_dropped_before_it_is_sent(make, has_result):
    answers = []

    def make_with_finalizer():
        result = make()
        weakref.finalize(result, lambda: answers.append(worker.master.receive(0)))
        return result

    worker = Worker(echo, has_result=has_result)
    worker.runner.functions[NUMBER].function = make_with_finalizer
    worker.send(7)
    worker.serve()
    assert worker.answers == []  # it was small
    assert answers == [None]


def test_no_frame_of_an_exception_is_kept():
    things = []

    class Thing:
        def __init__(self):
            things.append(weakref.ref(self))

    def raise_with_thing():
        thing = Thing()
        raise ValueError(type(thing).__name__)

    worker = Worker(echo)
    worker.runner.functions[NUMBER].function = raise_with_thing
    gc.disable()
    try:
        worker.send(7)
        worker.serve()
        assert things[0]() is None
    finally:
        gc.enable()


def test_signal_handler_runs_between_calls_of_compiled_functions():
    class Alarm(Exception):
        pass

    def on_alarm(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        worker = Worker(len)
        worker.add(NUMBER + 1, signal.setitimer)
        worker.add(NUMBER + 2, SLOW)
        worker.send(0, signal.ITIMER_REAL, 1e-6, number=NUMBER + 1)
        for call in range(1, 300):
            worker.send(call, "x", number=NUMBER + 2)
        with pytest.raises(Alarm):
            worker.serve()
        assert worker.channel.receive(0) is not None  # calls were left
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_run_between_calls_of_compiled_functions():
    gate, passed = threading.Lock(), []
    gate.acquire()
    thread = threading.Thread(target=lambda: (gate.acquire(), passed.append(True)))
    thread.start()
    worker = Worker(len)
    worker.add(NUMBER + 1, gate.release)
    worker.add(NUMBER + 2, SLOW)
    worker.add(NUMBER + 3, passed.copy)
    worker.send(0, number=NUMBER + 1)
    for call in range(1, 300):
        worker.send(call, "x", number=NUMBER + 2)
    worker.send(300, number=NUMBER + 3)
    worker.serve()
    assert [worker.result()[2] for _ in range(301)][-1] == [True]
    thread.join(LIMIT_S)


@pytest.mark.parametrize("first", range(12))
def test_without_memory_each_call_is_answered_or_left(first):
    worker = Worker(echo)
    for call in range(3):
        worker.send(call, 1, [2.5])
    for _ in range(2):  # the first one may be lost
        worker.master.send(END, 0, 0, [b""], LIMIT_S)
    message = None

    def receive():
        nonlocal message
        message = worker.calls.receive()

    assert run_without_memory(receive, first, 1)
    left = 0
    while message is None or message[0] == CALL:
        left += message is not None
        receive()
    answered = 0
    while worker.master.receive(0) is not None:
        answered += 1
    assert answered + left == 3


class Ended(BaseException):
    """Takes the place of the end of a fork."""


def end(_code):
    raise Ended


@pytest.mark.parametrize("function", [echo, make_set, fail])
def test_fork_of_a_call_ends_without_an_answer(monkeypatch, function):
    def fork_and_call():
        worker.runner.forks.is_fork = True
        return function()

    worker = Worker(echo)
    worker.runner.functions[NUMBER].function = fork_and_call
    worker.send(7)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        worker.serve()
    assert worker.master.receive(0) is None
    assert worker.answers == []


def test_fork_of_a_finalizer_ends_without_an_answer(monkeypatch):
    def make():
        result = set()
        weakref.finalize(result, setattr, worker.runner.forks, "is_fork", True)
        return result

    worker = Worker(echo, returned=lambda _result: (RESULT, 0, [b"sent"]))
    worker.runner.functions[NUMBER].function = make
    worker.send(7)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        worker.serve()
    assert worker.master.receive(0) is None


def test_fork_between_calls_takes_none(monkeypatch):
    worker = Worker(echo)
    worker.send(7)
    worker.runner.forks.is_fork = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", end)
        with pytest.raises(Ended):
            worker.serve()
    worker.runner.forks.is_fork = False
    worker.serve()
    assert worker.result()[:2] == (RESULT, 7)
