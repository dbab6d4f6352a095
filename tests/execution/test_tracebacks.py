"""Tracebacks of failed calls in the script: the user's own lines, and what the worker tells."""

from __future__ import annotations

import inspect
import re
import time
import traceback
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

from pympipool import Executor


def fail(x):
    raise ArithmeticError(x)


@pytest.mark.parametrize(
    ("kind", "get"),
    [
        (ArithmeticError, lambda exe: exe.submit(fail, 0).result()),
        (ArithmeticError, lambda exe: exe.submit(fail, 0).result(timeout=60)),
        (ArithmeticError, lambda exe: list(exe.map(fail, range(2)))),
        (ArithmeticError, lambda exe: list(exe.map(fail, range(2), chunksize=2))),
        (ArithmeticError, lambda exe: list(exe.map(fail, [[1], [2]]))),
        (FutureTimeoutError, lambda exe: exe.submit(time.sleep, 60).result(timeout=0.001)),
        (FutureTimeoutError, lambda exe: list(exe.map(time.sleep, [60] * 2, timeout=0.001))),
        (FutureTimeoutError, lambda exe: list(exe.map(time.sleep, [60] * 2, timeout=0.001, chunksize=2))),
        (FutureTimeoutError, lambda exe: list(exe.map(time.sleep, [60] * 2, timeout=0.001, unordered=True))),
    ],
    ids=[
        "result",
        "timeout_given",
        "map",
        "chunks",
        "map_of_lists",
        "timeout",
        "timeout_of_map",
        "timeout_of_chunks",
        "timeout_of_unordered",
    ],
)
@pytest.mark.parametrize("has_cache", [False, True], ids=["", "cache"])
def test_own_frames_are_left_out(kind, get, has_cache, tmp_path):
    directory = tmp_path if has_cache else None
    with Executor(max_workers=1, backend="mpi", block_allocation=True, cache_directory=directory) as exe:
        with pytest.raises(kind) as raised:
            get(exe)
        exe.kill_workers()
        assert [entry.filename for entry in traceback.extract_tb(raised.tb)] == [__file__, __file__]


@pytest.mark.parametrize(
    "get",
    [
        lambda exe: exe.submit(fail, 0, 1).result(),
        lambda exe: exe.submit(fail, y=1).result(),
        lambda exe: exe.submit(int, "x").result(),
        lambda exe: list(exe.map(fail, [0], [1], chunksize=2)),
        lambda exe: list(exe.map(int, ["x"] * 2, chunksize=2)),
    ],
    ids=["too_many", "unknown_name", "builtin", "map", "map_of_a_builtin"],
)
@pytest.mark.parametrize("options", [{"block_allocation": True}, {}], ids=["block_allocation", "process_per_call"])
def test_functions_without_frames_show_no_own_frames(get, options):
    with Executor(max_workers=1, backend="mpi", **options) as exe, pytest.raises((TypeError, ValueError)) as raised:
        get(exe)
    where, *error = str(raised.value.__cause__).strip().splitlines()
    assert re.match(r"In (a worker|worker \d+) \(host", where)
    assert error == [f"{type(raised.value).__name__}: {raised.value}"]


def test_result_keeps_its_signature():
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        future = exe.submit(abs, -1)
        assert future.result(60) == future.result(timeout=60) == 1
        assert str(inspect.signature(future.result)) == "(timeout=None)"
        with pytest.raises(TypeError):
            future.result(1, 2)
        with pytest.raises(TypeError):
            future.result(wrong=1)
