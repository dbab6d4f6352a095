"""Tracebacks of failed calls in the script: the user's own lines, and what the worker tells."""

from __future__ import annotations

import inspect
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
        (FutureTimeoutError, lambda exe: exe.submit(time.sleep, 0.2).result(timeout=0.001)),
    ],
    ids=["result", "timeout_given", "map", "chunks", "map_of_lists", "timeout"],
)
def test_own_frames_are_left_out(kind, get):
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        with pytest.raises(kind) as raised:
            get(exe)
        assert [entry.filename for entry in traceback.extract_tb(raised.tb)] == [__file__, __file__]


def test_result_keeps_its_signature():
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        future = exe.submit(abs, -1)
        assert future.result(60) == future.result(timeout=60) == 1
        assert str(inspect.signature(future.result)) == "(timeout=None)"
        with pytest.raises(TypeError):
            future.result(1, 2)
        with pytest.raises(TypeError):
            future.result(wrong=1)
