"""Test runs in several processes (`pytest -n 6`, as `make test` does).

Each process takes one module after the other. Tests with the same SLURM or flux all go to one process: there can be
one SLURM for tests at a time. Many tests wait most of the time, so that six processes keep two cores busy.

While a test that is marked `alone` runs, the other processes pause between two tests. Before, it waits for the longest
test that runs, and so do they. So all tests of this kind go to one process, when most others have ended; except those
of SLURM.

A test waits outside of its time limit, on two locks that processes take in this order:

    queue     held by a process while it waits for its turn, so that no test overtakes one that waits to be alone
    running   shared by all tests that run; a test that is alone has it for itself
"""

from __future__ import annotations

import ast
import functools
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

LONGEST = (
    "slurm",
    "hosts",
    "tests/reliability/test_chaos.py",
    "tests/core/test_csrc.py",
    "tests/pages/test_scripts.py",
    "tests/detached/test_kills.py",
)
"""Modules that begin before all others: the last one would keep one process busy after the others have ended."""

ALONE = "tests that are alone"
"""What the process does that runs them."""
MARK = "pytest.mark.alone"


@functools.cache
def names_of_alone(module: Path) -> set[str]:
    """Return the names of tests with this mark: the process that distributes tests knows their ids only."""
    text = module.read_text()
    if MARK not in text:
        return set()
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    all_are = any(MARK in ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))  # pytestmark
    return {node.name for node in functions if all_are or MARK in map(ast.unparse, node.decorator_list)}


@contextmanager
def turn_of(item: pytest.Item) -> Iterator[None]:
    """Wait until the test may run beside those of other processes, and hold them up if it runs alone."""
    if not hasattr(item.config, "workerinput"):  # a single process
        yield
        return
    import fcntl  # Windows has none, and runs the tests in a single process

    is_alone = item.get_closest_marker("alone") and not item.get_closest_marker("skip")
    folder = Path(item.config.getoption("basetemp")).parent  # of this run; each of its processes has a folder in there
    with open(folder / "queue", "w") as queue, open(folder / "running", "w") as running:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
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
            module, _, name = nodeid.partition("[")[0].partition("::")
            is_alone = name.rpartition("::")[2] in names_of_alone(config.rootpath / module)
            return ALONE if is_alone else super()._split_scope(nodeid)

        def _assign_work_unit(self, node):
            waiting = [scope for scope in LONGEST if scope in self.workqueue]
            if waiting:
                self.workqueue.move_to_end(waiting[0], last=False)
            if ALONE in self.workqueue:
                self.workqueue.move_to_end(ALONE)
            super()._assign_work_unit(node)

    return ByModule(config, log)
