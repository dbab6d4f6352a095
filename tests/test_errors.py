"""Errors have complete messages, and survive pickling and copying."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import BrokenExecutor

import pytest

from pympipool import errors
from pympipool.errors import (
    DependencyError,
    RemoteError,
    RemoteTraceback,
    SerializationError,
    WorkerDied,
    WorkerStartError,
)

DIED = WorkerDied(worker=3, host="node1", pid=4711, rank=1, exit_code=-11, last_stderr=["one", "two"], function="solve")
ALL = [
    DIED,
    WorkerDied(),
    WorkerDied(worker=3, host="node2", lost_reason="its host has not answered for 4 s", function="solve"),
    WorkerDied(worker=3, exit_code=-9, function="solve", has_begun=False),
    WorkerStartError("mpiexec was not found", host="node1", exit_code=127, last_stderr=["not found"]),
    SerializationError("cannot pickle a lock"),
    RemoteError("mylib.NoConvergence", "after 9 steps", "it holds a lock"),
    RemoteTraceback("Traceback: ..."),
    DependencyError("an input failed"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("travel", [copy.copy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in (2, 4, 5))])
def test_errors_survive_pickling_and_copying(error, travel):
    error.seen_by = "a user who sets attributes"
    twin = travel(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_docstrings_say_cause_and_remedy():
    for name in errors.__all__:
        text = getattr(errors, name).__doc__
        assert "Seen when" in text or name in ("RemoteTraceback", "DependencyError", "SerializationError"), name
        assert "What to do" in text or name == "RemoteTraceback", name


def test_errors_are_subclasses_of_standard_ones():
    assert issubclass(WorkerDied, BrokenExecutor)
    assert issubclass(WorkerStartError, BrokenExecutor)
    assert issubclass(SerializationError, pickle.PicklingError)


def test_message_of_worker_died_is_complete():
    text = str(DIED)
    for word in ("worker 3", "node1", "rank 1", "4711", "SIGSEGV", "solve()", "one\n", "two"):
        assert word in text
    assert DIED.signal == "SIGSEGV"


@pytest.mark.parametrize(
    ("exit_code", "signal", "words"),
    [
        (-9, "SIGKILL", "died of SIGKILL"),
        (137, "SIGKILL", "exit code 137"),  # as mpiexec and srun report it
        (3, None, "exit code 3"),
        (0, None, "exit code 0"),
        (-64, "SIGRTMAX", "died of SIGRTMAX"),
        (-99, "signal 99", "signal 99"),
        (255, None, "exit code 255"),
        (0xC0000005, None, "exit code 0xc0000005 (access violation)"),
        (0xC0000999, None, "exit code 0xc0000999"),
        (None, None, "unexpectedly"),
    ],
)
def test_exit_code_is_named_by_its_signal(exit_code, signal, words):
    error = WorkerDied(exit_code=exit_code)
    assert error.signal == signal
    assert words in str(error)


def test_message_of_a_lost_worker_gives_the_reason():
    error = WorkerDied(
        worker=3, host="node2", exit_code=None, lost_reason="its host has not answered for 4 s", function="solve"
    )
    assert str(error) == "worker 3 on node2 was lost while it ran solve(): its host has not answered for 4 s"


def test_message_tells_that_a_call_had_not_begun():
    error = WorkerDied(worker=3, exit_code=-9, function="solve", has_begun=False)
    assert str(error) == "worker 3 died of SIGKILL before it began solve(), as had several others"
    assert "before it began the call" in str(WorkerDied(has_begun=False))


def test_message_after_sigkill_hints_at_memory():
    assert "memory" in str(WorkerDied(exit_code=-9))
    assert "memory" not in str(WorkerDied(exit_code=-11))


def test_former_name_of_lost_reason_warns_and_works():
    with pytest.warns(DeprecationWarning, match="WorkerDied.lost_reason") as warned:
        error = WorkerDied(lost="its host is gone")
    with pytest.warns(DeprecationWarning, match="WorkerDied.lost_reason"):
        assert error.lost == error.lost_reason == "its host is gone"
    assert warned[0].filename == __file__
