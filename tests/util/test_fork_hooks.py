"""Forks of a fork server, which leave out hooks, and forks of its children, which must not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pympipool._util.platform import HAS_SIGNALS

pytestmark = pytest.mark.skipif(not HAS_SIGNALS, reason="Windows has no forks: run on Unix")

PROGRAM = """
import gc, logging, os, threading
from pympipool._util import fork_hooks

ran = []
os.register_at_fork(before=lambda: ran.append("before"), after_in_child=lambda: ran.append("child"))
gc.freeze()  # as every program of pympipool does with what it has imported
fork_hooks.set_aside()
lock = threading._active_limbo_lock


def forked(check):
    if (child := os.fork()) == 0:
        print(check(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def with_second_thread():
    fork_hooks.restore()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    logging.getLogger().handlers.append(handler := logging.StreamHandler())
    with handler.lock:
        forked(lambda: ("grandchild", ran, threading.enumerate() == [threading.main_thread()]))
    end.set()
    thread.join()
    return "child"


forked(lambda: (ran, threading._active_limbo_lock is lock))
forked(with_second_thread)
"""


def test_hooks_are_set_aside_and_restored():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.splitlines() == [
        "(['before', 'child'], True)",  # that of the program runs, that of threading does not
        "('grandchild', ['before', 'before', 'child', 'before', 'child'], True)",
        "child",
    ]
