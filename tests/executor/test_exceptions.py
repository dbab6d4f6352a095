"""Errors of a call, or of sending it, arrive on the future of that call; the executor continues to work."""

import copy
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from types import SimpleNamespace

import numpy as np
import pytest

from pympipool.errors import RemoteError, RemoteTraceback, SerializationError, WorkerDied
from support.calls import (
    FailsToPickle,
    FailsToUnpickle,
    HoldsALock,
    Mute,
    NoConvergence,
    Stubborn,
    divide,
    echo,
    fail,
    pid,
    square,
)

pytestmark = pytest.mark.anywhere


@pytest.fixture(autouse=True)
def executor_goes_on(executor):
    """Check after the test that the executor still runs calls."""
    yield
    assert [executor.submit(square, i).result() for i in range(3)] == [0, 1, 4]


def raise_it(make, *args, **kwargs):
    raise make(*args, **kwargs)


# ---- exceptions that calls raise ----


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ValueError, ("a message",)),
        (ValueError, ()),
        (KeyError, ("a", 1)),
        (FileNotFoundError, (2, "No such file or directory", "missing.txt")),
        (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "invalid start byte")),
        (StopIteration, (3,)),
        (MemoryError, ()),
        (AssertionError, ()),
        (TimeoutError, ("of the call itself",)),
        (NoConvergence, ("after", 5)),
    ],
)
def test_exceptions_arrive_with_type_and_arguments(executor, kind, arguments):
    error = executor.submit(raise_it, kind, *arguments).exception()
    assert type(error) is kind
    assert error.args == kind(*arguments).args
    assert str(error) == str(kind(*arguments))


def test_result_always_raises_the_same_exception(executor):
    call = executor.submit(fail, "once")
    for _ in range(3):
        with pytest.raises(ValueError, match="once") as caught:
            call.result()
        assert caught.value is call.exception()
    assert "ValueError" in repr(call)


def test_attributes_of_exceptions_arrive(executor):
    assert executor.submit(raise_it, NoConvergence, "after", 5).exception().steps == 5
    error = executor.submit(open, "/no/such/file").exception()
    assert (error.errno, error.filename) == (2, "/no/such/file")


def test_exception_that_cannot_be_unpickled_still_arrives(executor):
    error = executor.submit(raise_it, Stubborn, 3, residual=0.5).exception()
    assert "step 3: residual 0.5" in str(error)
    assert type(error) is Stubborn
    assert (error.step, error.residual) == (3, 0.5)


def test_exception_with_lock_arrives_without_lock(executor):
    error = executor.submit(raise_it, HoldsALock, "the message").exception()
    assert "the message" in str(error)
    assert isinstance(error, (HoldsALock, RemoteError))


def test_exception_with_failing_str_arrives(executor):
    assert isinstance(executor.submit(raise_it, Mute).exception(), (Mute, RemoteError))


def test_exception_class_unknown_to_master_arrives_by_name(executor):
    def work():
        import sys
        import types

        module = types.ModuleType("only_in_the_worker")
        sys.modules["only_in_the_worker"] = module
        exec("class Lost(Exception): pass", module.__dict__)
        raise module.Lost("but not its message")

    error = executor.submit(work).exception()
    assert isinstance(error, RemoteError)
    assert error.type_name == "only_in_the_worker.Lost"
    assert "but not its message" in str(error)


def test_exception_of_local_class_arrives(executor):
    class Local(Exception):
        pass

    with pytest.raises(Local, match="here"):
        executor.submit(raise_it, Local, "here").result()


def test_the_remote_traceback_is_shown_with_the_exception(executor):
    error = executor.submit(divide, 1, 0).exception()
    assert isinstance(error.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(error))
    assert "in divide" in shown
    assert "return x / y" in shown
    assert os.path.join("support", "calls.py") in shown


def test_cause_of_exception_is_shown(executor):
    def work():
        try:
            divide(1, 0)
        except ZeroDivisionError as error:
            raise LookupError("because of it") from error

    shown = "".join(traceback.format_exception(executor.submit(work).exception()))
    assert "in divide" in shown
    assert "direct cause" in shown
    assert "because of it" in shown


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups are new in Python 3.11")
def test_notes_and_groups_arrive(executor):
    def work():
        error = ValueError("with a note")
        error.add_note("the note")
        raise ExceptionGroup(  # noqa: F821
            "several", [error, KeyError(1)]
        )

    group = executor.submit(work).exception()
    assert type(group).__name__ == "ExceptionGroup"
    assert [type(error) for error in group.exceptions] == [ValueError, KeyError]
    assert group.exceptions[0].__notes__ == ["the note"]


def test_recursion_error_fails_the_call(executor):
    def recurse(n):
        return recurse(n + 1)

    with pytest.raises(RecursionError):
        executor.submit(recurse, 0).result()


def test_memory_error_fails_the_call(executor):
    with pytest.raises(MemoryError):
        executor.submit(np.empty, 2**60, np.int8).result()


def test_a_very_long_message_arrives(executor):
    assert executor.submit(fail, "x" * 5_000_000).exception().args == ("x" * 5_000_000,)


def test_wrong_arguments_fail_the_call(executor):
    with pytest.raises(TypeError, match="square"):
        executor.submit(square, 1, 2, 3).result()


def test_alternating_failures_and_results_do_not_mix(executor, many):
    calls = [executor.submit(divide, 6, i % 3) for i in range(many(600, 30))]
    for i, call in enumerate(calls):
        if i % 3 == 0:
            assert isinstance(call.exception(), ZeroDivisionError)
        else:
            assert call.result() == 6 / (i % 3)


# ---- objects that cannot be sent ----


def generator():
    yield 1


UNPICKLABLE = {
    "a lock": threading.Lock,
    "a generator": generator,
    "a system object": select.poll,
    "a frame": sys._getframe,
    "an object that refuses": FailsToPickle,
}


@pytest.mark.parametrize("what", UNPICKLABLE)
@pytest.mark.parametrize("place", ["positional", "keyword", "inside"])
def test_unpicklable_argument_fails_only_its_call(executor, what, place):
    value = UNPICKLABLE[what]()
    match place:
        case "positional":
            call = executor.submit(echo, value)
        case "keyword":
            call = executor.submit(echo, value=value)
        case "inside":
            call = executor.submit(echo, {"a": [value]})
    error = call.exception()
    assert isinstance(error, pickle.PickleError)
    assert isinstance(error, SerializationError)
    assert "echo" in str(error)
    assert "argument" in str(error)
    assert type(value).__name__ in str(error) or place == "inside"


@pytest.mark.parametrize("what", UNPICKLABLE)
def test_unpicklable_result_fails_only_its_call(executor, what):
    make = UNPICKLABLE[what]
    call = executor.submit(lambda: [make()])
    assert isinstance(call.exception(), SerializationError)
    assert "result" in str(call.exception())


def test_unpicklable_function_fails_only_its_call(executor):
    lock = threading.Lock()
    call = executor.submit(lambda: lock.locked() or 1)
    assert isinstance(call.exception(), SerializationError)
    assert "lock" in str(call.exception())


def test_argument_failing_to_unpickle_fails_only_its_call(executor):
    error = executor.submit(echo, FailsToUnpickle()).exception()
    assert isinstance(error, SerializationError)
    assert "this object cannot be rebuilt" in str(error)


def test_result_failing_to_unpickle_fails_only_its_call(executor):
    error = executor.submit(FailsToUnpickle).exception()
    assert isinstance(error, SerializationError)
    assert "this object cannot be rebuilt" in str(error)


def test_function_of_missing_module_fails_only_its_call(executor, monkeypatch):
    import types

    module = types.ModuleType("only_in_the_master")
    monkeypatch.setitem(sys.modules, "only_in_the_master", module)
    exec("def work(): return 1", module.__dict__)
    error = executor.submit(module.work).exception()
    assert "only_in_the_master" in str(error)


def test_argument_with_failing_repr_is_named(executor):
    class NoRepr:
        def __repr__(self):
            raise RuntimeError("no words")

        def __reduce__(self):
            raise TypeError("stays here")

    error = executor.submit(echo, NoRepr()).exception()
    assert isinstance(error, SerializationError)
    assert "NoRepr" in str(error)


def test_cyclic_objects_can_be_sent(executor):
    circle = []
    circle.append(circle)
    result = executor.submit(echo, circle).result()
    assert result[0] is result


# ---- workers that die (see also the tests of the pools) ----


def segfault():
    import ctypes

    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (os._exit, (3,), "exit code 3"),
        (os.abort, (), "SIGABRT"),
        (segfault, (), "SIGSEGV"),
        (signal.raise_signal, (signal.SIGKILL,), "SIGKILL"),
    ],
    ids=["os._exit", "abort", "segmentation fault", "killed"],
)
def test_worker_death_fails_only_its_running_call(make_executor, many, function, arguments, words):
    exe = make_executor()
    before, call = exe.submit(pid), exe.submit(function, *arguments)
    after = [exe.submit(square, i) for i in range(many(50, 5))]
    with pytest.raises(WorkerDied, match=words):
        call.result()
    assert [other.result() for other in after] == [i * i for i in range(many(50, 5))]
    assert before.result() != exe.submit(pid).result()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exceptions_that_end_programs_end_only_their_call(executor, kind):
    with pytest.raises((WorkerDied, kind)):
        executor.submit(raise_it, kind, "the call").result()


# ---- objects that belong to this process ----


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_executors_and_futures_are_not_copied(executor, copied):
    with pytest.raises(TypeError, match=r"neither be copied nor sent.*Make it where it is used"):
        copied(executor)
    with pytest.raises(TypeError, match=r"neither be copied nor sent.*take its result\(\) first"):
        copied(executor.submit(square, 2))


def test_capturing_call_error_names_the_remedy(executor):
    inside = SimpleNamespace(call=executor.submit(square, 2))
    with pytest.raises(SerializationError, match=r"argument 1 of echo\(\).*take its result\(\) first"):
        executor.submit(echo, inside).result()
    with pytest.raises(SerializationError, match=r"the function .*Make it where it is used"):
        executor.submit(lambda: executor.submit(square, 2)).result()
