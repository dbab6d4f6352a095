"""Fixtures for the tests of caches: executors with one, and a file that shows which calls have run."""

import sys

import pytest

from pympipool import Executor


@pytest.fixture
def directory(tmp_path):
    """The cache directory of the executors of a test."""
    return tmp_path / "cache"


@pytest.fixture(params=["block_allocation", "one_process_per_call", "serial"])
def make_executor(request, directory):
    """Make an executor with a cache, at each of the places where calls run."""
    options = {
        "block_allocation": {"max_workers": 2, "block_allocation": True},
        "one_process_per_call": {"max_workers": 2},
        "serial": {"backend": "serial"},
    }[request.param]
    return lambda **more: Executor(**{"cache_directory": directory, **options, **more})


@pytest.fixture
def make_block(directory):
    """Make an executor with a cache, whose workers live longer than a call."""
    return lambda **more: Executor(**{"max_workers": 2, "block_allocation": True, "cache_directory": directory, **more})


@pytest.fixture
def ran(tmp_path):
    """The path of a file to which each call that runs adds a line."""
    path = tmp_path / "ran"
    path.touch()
    return str(path)


@pytest.fixture(autouse=True)
def without_pandas(monkeypatch):
    """Let `get_cache_data` return lists: other tests may have imported pandas."""
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
