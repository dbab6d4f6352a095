"""A process that a call has forked ends when it comes back from the call: the worker alone answers."""

from __future__ import annotations

import os
import sys

import pytest

from pympipool import Executor

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork: run it on Linux or macOS", allow_module_level=True)

WAYS = {"returns": lambda: "of the child", "raises": lambda: 1 / 0, "exits": sys.exit, "ends": lambda: os._exit(0)}
EXIT_CODES = {"returns": 1, "raises": 1, "exits": 0, "ends": 0}


def come_back(way, path):
    """Fork; the child comes back in this way, and the worker returns its exit code."""
    with open(path, "a") as file:
        file.write("called\n")
    child = os.fork()
    if child == 0:
        return way()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def exe():
    with Executor(max_workers=1, block_allocation=True) as exe:
        yield exe


@pytest.mark.parametrize("way", WAYS)
def test_worker_alone_answers_and_goes_on(exe, way, tmp_path):
    calls = []
    for number in range(3):
        calls.append(exe.submit(come_back, WAYS[way], tmp_path / "calls"))
        calls.append(exe.submit(abs, -number))
    assert [call.result(timeout=60) for call in calls] == [EXIT_CODES[way], 0, EXIT_CODES[way], 1, EXIT_CODES[way], 2]


@pytest.mark.parametrize("way", WAYS)
def test_fork_runs_no_further_call_of_its_batch(exe, way, tmp_path):
    codes = exe.map(come_back, [WAYS[way]] * 4, [tmp_path / "calls"] * 4, chunksize=4)
    assert list(codes) == [EXIT_CODES[way]] * 4
    assert (tmp_path / "calls").read_text() == "called\n" * 4


def test_fork_that_comes_back_says_so(tmp_path, capfd):
    with Executor(max_workers=1) as exe:
        assert exe.submit(come_back, WAYS["raises"], tmp_path / "calls").result(timeout=60) == 1
        assert exe.submit(come_back, WAYS["returns"], tmp_path / "calls").result(timeout=60) == 1
    output = capfd.readouterr().err
    assert "ZeroDivisionError" in output
    assert "End a fork with os._exit()" in output
