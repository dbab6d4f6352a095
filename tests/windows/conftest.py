"""Executors of both lifetimes, whose workers are fresh interpreters: as on Windows, also on systems that can fork."""

import pytest

from pympipool import Executor


@pytest.fixture(params=[True, False], ids=["block", "one process per call"])
def make(request, monkeypatch):
    """make(**options): an executor, which is ended after the test."""
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    made = []

    def make(**options):
        made.append(Executor(**{"max_workers": 2, "block_allocation": request.param, "backend": "mpi", **options}))
        return made[-1]

    yield make
    for exe in made:
        exe.shutdown(wait=True, cancel_futures=True)
