"""Dependencies: futures among the arguments are found, waited for by callback, and replaced by their results."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import gc
import itertools
import random
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool.errors import DependencyError, RemoteTraceback, WorkerDied
from pympipool.execution.dependencies import InputError, InputWaiter
from pympipool.serialization.future_search import find_futures, resolve
from support.nasty_exceptions import Frozen, OwnArgs, Refuses

Pair = collections.namedtuple("Pair", "left right")


class NamedPair(Pair):
    def __new__(cls, *_):
        raise AssertionError("named tuples are rebuilt without their constructor")


def done(result) -> Future:
    future = Future()
    future.set_result(result)
    return future


def failed(error) -> Future:
    future = Future()
    future.set_exception(error)
    return future


def cancelled() -> Future:
    future = Future()
    future.cancel()
    return future


# ---- finding and replacing ----


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda f: f, 7),
        (lambda f: [1, f], [1, 7]),
        (lambda f: (f, "a"), (7, "a")),
        (lambda f: {1, f}, {1, 7}),
        (lambda f: frozenset([f]), frozenset([7])),
        (lambda f: {"a": f, "b": 2}, {"a": 7, "b": 2}),
        (lambda f: {f: "key"}, {7: "key"}),
        (lambda f: {(f, 1): "key"}, {(7, 1): "key"}),
        (lambda f: Pair(f, 2), Pair(7, 2)),
        (lambda f: tuple.__new__(NamedPair, (f, 2)), tuple.__new__(NamedPair, (7, 2))),
        (lambda f: collections.OrderedDict(b=1, a=f), collections.OrderedDict(b=1, a=7)),
        (lambda f: [{"a": ({"b": [(f,)]},)}], [{"a": ({"b": [(7,)]},)}]),
        (lambda f: [0] * 1000 + [f], [0] * 1000 + [7]),
    ],
)
def test_futures_are_replaced_at_any_depth(wrap, expected):
    future = done(7)
    value = wrap(future)
    assert find_futures((value,), {}) == [future]
    assert find_futures((1,), {"x": value}) == [future]
    args, kwargs = resolve((1, value), {"x": value})
    assert args == (1, expected)
    assert kwargs == {"x": expected}
    assert type(args[1]) is type(expected)
    assert find_futures((value,), {}) == [future], "what the user passed is as it was"


def test_defaultdict_keeps_its_default_factory():
    (arrived,), _ = resolve((collections.defaultdict(list, a=done(7)),), {})
    assert arrived["a"] == 7
    assert arrived["b"] == []


@dataclasses.dataclass
class Record:
    value: object


class OwnList(list):
    pass


@pytest.mark.parametrize(
    "value",
    [None, 1, "a", b"a", 1.5, np.zeros(3), Record(done(1)), OwnList([done(1)]), collections.deque([done(1)]), [], {},
     sys.version_info, [1, [2]], {"a": {"b": 1}}, object()],
)  # fmt: skip
def test_other_objects_are_not_searched(value):
    assert find_futures((value,), {"x": value}) == []


def test_each_future_is_found_once():
    one, two = done(1), done(2)
    assert set(find_futures((one, [two, one]), {"x": {"y": two}})) == {one, two}
    assert len(find_futures((one, [two, one]), {"x": {"y": two}})) == 2


def test_containers_without_futures_are_not_copied():
    untouched, future = [1, [2]], done(7)
    args, kwargs = resolve((untouched, [untouched, future]), {"x": untouched})
    assert args[0] is untouched
    assert args[1] == [untouched, 7]
    assert args[1][0] is untouched
    assert kwargs["x"] is untouched


def test_shared_containers_stay_shared():
    shared = [done(7)]
    args, kwargs = resolve((shared, (shared,)), {"x": shared})
    assert args[0] == [7]
    assert args[0] is args[1][0] is kwargs["x"]


def test_cyclic_containers_stay_cyclic():
    circle: list = [done(7)]
    circle.append({"again": (circle,)})
    around = (circle,)
    circle.append(around)
    assert len(find_futures((circle,), {})) == 1
    for args, _ in (resolve((around, circle), {}), resolve((circle, around), {})):
        arrived = args[0][0] if type(args[0]) is tuple else args[0]
        assert {id(args[0]), id(args[1])} == {id(arrived), id(arrived[2])}
        assert arrived[0] == 7
        assert arrived[1]["again"][0] is arrived
        assert arrived[2][0] is arrived
    empty_circle: list = []
    empty_circle.append(empty_circle)
    assert find_futures((empty_circle,), {}) == []
    assert resolve((empty_circle,), {})[0][0] is empty_circle


def test_very_deep_arguments_are_searched():
    deep: list = [done(1)]
    for _ in range(50_000):
        deep = [deep]
    assert len(find_futures((deep,), {})) == 1
    while isinstance(deep, list):
        deep = deep[0]


def test_unhashable_result_as_key_is_an_error():
    with pytest.raises(TypeError, match="unhashable"):
        resolve(({done([1]): 1},), {})


def test_resolve_uses_the_given_result_function():
    args, _ = resolve((done(7), [done(8)]), {}, lambda future: ("packed", future.result()))
    assert args == (("packed", 7), [("packed", 8)])


trees = st.recursive(
    st.integers() | st.integers().map(done),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(max_size=2), inner),
)


@given(trees)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_resolving_nested_values_matches_a_simple_model(tree):
    def by_hand(value):
        if isinstance(value, Future):
            return value.result()
        if isinstance(value, dict):
            return {key: by_hand(item) for key, item in value.items()}
        return type(value)(map(by_hand, value)) if isinstance(value, (list, tuple)) else value

    assert resolve((tree,), {"x": tree}) == ((by_hand(tree),), {"x": by_hand(tree)})
    assert find_futures(resolve((tree,), {})[0], {}) == []


# ---- waiting ----


class Post:
    """Stands for a function that will be posted."""

    def __init__(self, mailbox, function):
        self.mailbox = mailbox
        self.function = function

    def send(self, _):
        self.mailbox.functions.append(self.function)
        self.mailbox.run()


class Mailbox:
    """Stands for the mailbox of the continuation thread: runs one function after the other, in the thread that posts."""

    def __init__(self):
        self.functions = collections.deque()
        self.lock = threading.Lock()

    def prepare(self, function):
        return Post(self, function)

    def run(self):
        while self.functions and self.lock.acquire(blocking=False):
            try:
                self.run_next()
            finally:
                self.lock.release()

    def run_next(self):
        try:
            function = self.functions.popleft()
        except IndexError:
            return
        function()


MAILBOX = Mailbox()


def when_all_done(futures, callback):
    waiter = InputWaiter(futures, callback, MAILBOX)
    waiter.watch()
    MAILBOX.functions.append(waiter.accept)
    MAILBOX.run()


class Calls(list):
    """A callback that records its argument."""

    def __call__(self, failed):
        self.append(failed)


def test_callback_runs_once_after_the_last_future():
    futures, calls = [Future() for _ in range(5)], Calls()
    when_all_done(futures, calls)
    random.shuffle(futures)
    for future in futures:
        assert calls == []
        future.set_result(None)
    assert calls == [None]


def test_finished_futures_call_back_immediately():
    calls = Calls()
    when_all_done([done(1), done(2)], calls)
    assert calls == [None]


def test_only_the_first_failure_calls_back():
    futures, calls = [Future() for _ in range(3)], Calls()
    when_all_done(futures, calls)
    futures[1].set_exception(ValueError("wrong"))
    assert len(calls) == 1
    futures[0].set_exception(KeyError("later"))
    futures[2].set_result(1)
    assert calls == [futures[1]]


def test_cancelled_input_calls_back_immediately():
    futures, calls = [Future() for _ in range(3)], Calls()
    when_all_done(futures, calls)
    futures[2].cancel()
    assert calls == [futures[2]]


def test_futures_of_other_executors_work():
    with ThreadPoolExecutor(2) as threads:
        called = threading.Event()
        gate = threading.Event()
        when_all_done([threads.submit(gate.wait), threads.submit(int, "3")], lambda *_: called.set())
        assert not called.is_set()
        gate.set()
        assert called.wait(60)


def test_concurrent_completions_call_back_once():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(200):
                futures, calls = [Future() for _ in range(8)], Calls()
                when_all_done(futures, calls)
                list(threads.map(lambda future: future.set_result(1), futures))
                assert calls == [None]
    finally:
        sys.setswitchinterval(interval)


LENGTH = 10_000


def chain(links: int) -> list[Future]:
    """Return futures, each of which ends as the one before it does."""
    futures = [Future() for _ in range(links)]
    for before, after in itertools.pairwise(futures):

        def end(failed, after=after):
            if failed is None:
                after.set_result(None)
            elif failed.cancelled():
                after.cancel()
            else:
                after.set_exception(InputError(failed)())

        when_all_done([before], end)
    return futures


def test_long_chain_succeeds_without_recursion():
    futures = chain(LENGTH)
    futures[0].set_result(None)
    assert futures[-1].done()
    assert futures[-1].exception() is None


def test_long_chain_fails_without_recursion():
    futures = chain(LENGTH)
    origin = ValueError("first")
    futures[0].set_exception(origin)
    error = futures[-1].exception(timeout=0)
    assert isinstance(error, ValueError)
    assert error.__cause__ is origin
    assert len(error.__notes__) == 1


def test_long_chain_is_cancelled_without_recursion():
    futures = chain(LENGTH)
    futures[0].cancel()
    assert all(future.cancelled() for future in futures)


def test_many_inputs_and_diamond_dependencies():
    futures, calls = [Future() for _ in range(LENGTH)], Calls()
    when_all_done(futures, calls)
    for future in futures:
        future.set_result(1)
    assert calls == [None]
    top, left, right, bottom = (Future() for _ in range(4))
    when_all_done([left, right], lambda *_: bottom.set_result(4))
    for side in (left, right):
        when_all_done([top], lambda *_, side=side: side.set_result(2))
    top.set_result(1)
    assert bottom.done()


def test_waiter_that_was_not_accepted_never_calls_back():
    future, calls = Future(), Calls()
    waiter = InputWaiter([future, done(1)], calls, MAILBOX)
    waiter.watch()  # Ctrl-C may strike here
    future.set_result(1)
    assert calls == []


def test_recheck_notices_future_without_callback():
    torn, calls = Future(), Calls()
    waiter = InputWaiter([torn], calls, MAILBOX)
    waiter.watch()
    waiter.accept()
    torn._done_callbacks.clear()  # as if Ctrl-C had struck while they ran
    torn.set_result(1)
    assert calls == []
    waiter.recheck()
    waiter.recheck()
    assert calls == [None]


def test_locked_condition_of_a_future_delays_nothing():
    torn, calls = failed(ValueError()), Calls()
    waiter = InputWaiter([torn], calls, MAILBOX)
    waiter.watch()
    with ThreadPoolExecutor(1) as threads:
        torn._condition.acquire()  # as after Ctrl-C in concurrent.futures.wait()
        threads.submit(waiter.accept).result(60)
        torn._condition.release()
    assert calls == [torn]


def test_pending_inputs_do_not_keep_failed_call_alive():
    class Callback:
        def __call__(self, *_):
            pass

    slow, callback = Future(), Callback()
    watched = weakref.ref(callback)
    when_all_done([slow, failed(ValueError())], callback)
    del callback
    gc.collect()
    assert watched() is None
    slow.set_result(1)


# ---- the error of an input ----


def error_of(future: Future) -> BaseException:
    calls = Calls()
    when_all_done([future], calls)
    return InputError(calls[0])()


@pytest.mark.parametrize(
    "origin",
    [
        ValueError("wrong", 2),
        OSError(2, "none", "name"),
        KeyError("k"),
        WorkerDied(worker=3, exit_code=-9),
        SystemExit(3),
        CancelledError(),
        np.linalg.LinAlgError("singular"),
    ],
)
def test_call_fails_with_exception_of_its_input(origin, any_registration):
    any_registration(type(origin))
    origin.detail = "kept"
    origin.__cause__ = RemoteTraceback("Traceback ...")
    error = error_of(failed(origin))
    assert type(error) is type(origin)
    assert str(error) == str(origin)
    assert error.args == origin.args
    assert error.detail == "kept"
    assert error is not origin
    assert error.__cause__ is origin
    assert "input" in error.__notes__[-1]
    assert not hasattr(origin, "__notes__")


class OwnInit(Exception):
    def __init__(self, code, *, unit):
        super().__init__(f"{code} {unit}")


class Twisted(Exception):
    def __init__(self, word):
        super().__init__(f"<{word}>")


KINDS = [OwnInit(3, unit="mm"), Twisted("word"), Frozen(7), Refuses("y"), OwnArgs("z")]


@pytest.mark.parametrize("origin", KINDS, ids=lambda one: type(one).__name__)
def test_exceptions_with_classes_of_any_kind_are_copied(origin, any_registration):
    any_registration(type(origin))
    error = error_of(failed(origin))
    assert type(error) is type(origin)
    assert BaseException.__str__(error) == BaseException.__str__(origin)
    assert error.__cause__ is origin
    again = error_of(failed(error))
    assert again.__cause__ is origin


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no exception groups")
def test_uncopyable_exception_becomes_cause_of_dependency_error():
    origin = builtins.ExceptionGroup("several", [ValueError(1)])
    origin.args = ("too few",)
    error = error_of(failed(origin))
    assert isinstance(error, DependencyError)
    assert error.__cause__ is origin
    assert "ExceptionGroup" in str(error)


def test_misbehaving_future_fails_the_call():
    class Odd(Future):
        def exception(self, timeout=None):
            raise LookupError("odd")

    future = Odd()
    calls = Calls()
    when_all_done([future], calls)
    future.set_result(1)
    assert isinstance(InputError(calls[0])(), LookupError)
