"""Workers that the forkserver forks: what they find, and what they must not find."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from pympipool import Executor
from pympipool._util.platform import FORK_IS_SAFE

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not FORK_IS_SAFE, reason="workers are forked on Linux only: run there"),
]


@pytest.fixture(scope="module")
def exe():
    with Executor(max_workers=1) as exe:
        yield exe


def threads_of_fork():
    """Return how many threads a fork of a process of two threads has."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    child = os.fork()
    if child == 0:
        os._exit(threading.active_count())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end.set()
    thread.join()
    return code


def our_variables():
    return [name for name in os.environ if name.startswith("PYMPIPOOL_") and not name.startswith("PYMPIPOOL_TEST_")]


def streams():
    return [
        (stream.fileno(), stream.line_buffering, stream.errors, stream.seekable(), stream is standard)
        for stream, standard in ((sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__))
    ]


def test_forks_of_workers_run_all_hooks(exe):
    assert exe.submit(threads_of_fork).result() == 1


def test_worker_has_none_of_our_variables(exe):
    assert exe.submit(our_variables).result() == []


def test_streams_are_those_of_its_pipes(exe):
    assert exe.submit(streams).result() == [(number, True, "backslashreplace", False, True) for number in (1, 2)]


def test_each_worker_has_the_environment_of_its_start(exe, monkeypatch):
    for value in ("one", "two", None, "two"):
        if value is None:
            monkeypatch.delenv("VALUE_OF_TEST")
        else:
            monkeypatch.setenv("VALUE_OF_TEST", value)
        assert exe.submit(os.getenv, "VALUE_OF_TEST").result() == value


def test_descriptors_of_other_workers_are_closed():
    with Executor(max_workers=3) as exe:
        several = [exe.submit(os.listdir, "/proc/self/fd") for _ in range(6)]
        counts = {len(call.result()) for call in several}
    assert len(counts) == 1
