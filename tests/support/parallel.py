"""Test runs in several processes (`pytest -n 4`, as `make test` does).

Each process takes one module after the other. Tests with the same SLURM or flux all go to one process: there can be
one SLURM for tests at a time. While a test that is marked `alone` runs, the other processes pause between two tests.
The tests of SLURM and of detached calls wait most of the time, so that four processes keep two cores busy.

A test waits outside of its time limit, on two locks that processes take in this order:

    queue     held by a process while it waits for its turn, so that no test overtakes one that waits to be alone
    running   shared by all tests that run; a test that is alone has it for itself
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCHEDULERS = {
    "slurm": re.compile(r"^tests/slurm/|[\[-](slurm|second host)[\]-]"),
    "hosts": re.compile(r"^tests/hosts/"),
    "flux": re.compile(r"^tests/flux_framework/|[\[-]flux (one broker|two brokers|over tcp)[\]-]"),
}
"""The tests of one process, as their ids tell."""

LONGEST = ("slurm", "tests/reliability/test_chaos.py")
"""Modules that begin before all others: the last one would keep one process busy after the others have ended."""


@contextmanager
def turn_of(item: pytest.Item) -> Iterator[None]:
    """Wait until the test may run beside those of other processes, and hold them up if it runs alone."""
    if not hasattr(item.config, "workerinput"):  # a single process
        yield
        return
    folder = Path(item.config.getoption("basetemp")).parent  # of this run; each of its processes has a folder in there
    with open(folder / "queue", "w") as queue, open(folder / "running", "w") as running:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(
                running, fcntl.LOCK_UN
            )  # closing alone would not do: a process that the test forked may live on


def make_scheduler(config, log):
    """Return a scheduler of pytest-xdist that keeps modules, and the tests of one SLURM or flux, together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            for name, ids in SCHEDULERS.items():
                if ids.search(nodeid):
                    return name
            return super()._split_scope(nodeid)

        def _assign_work_unit(self, node):
            waiting = [scope for scope in LONGEST if scope in self.workqueue]
            if waiting:
                self.workqueue.move_to_end(waiting[0], last=False)
            super()._assign_work_unit(node)

    return ByModule(config, log)
