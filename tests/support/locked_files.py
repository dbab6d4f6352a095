"""Processes that are stopped while they hold the lock of a file of SQLite."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import psutil

from support.waiting import LIMIT_S, wait_until

HOLD = """
import os, select, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.executescript(sys.argv[2])
while not select.select([0], [], [], 0)[0]:  # whoever else lets it go on
    os.kill(os.getpid(), signal.SIGSTOP)
connection.execute("ROLLBACK")
"""


class StoppedHolder:
    """A stopped process that holds the lock of a file."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def let_go(self) -> None:
        """Let it go on, and wait for its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        psutil.Process(self.pid).resume()
        self._process.wait(LIMIT_S)


@contextlib.contextmanager
def stopped_holder(path: object, begin: str = "BEGIN IMMEDIATE") -> Iterator[StoppedHolder]:
    """Have a process hold the lock of a file, stopped, until it is let go, or the block ends."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path), begin], stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
            yield StoppedHolder(process)
        finally:
            process.kill()
