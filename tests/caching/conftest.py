"""Fixtures for the tests of caches: executors with one, and a file that shows which calls have run."""

import sys

import cloudpickle
import pytest

from pympipool import Executor
from pympipool.caching import modules
from pympipool.serialization import reloads


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder from which modules are imported; they are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modules, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(modules, "_modules", modules._Modules())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    registered = cloudpickle.list_registry_pickle_by_value()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
        reloads.SPECS.pop(name, None)
        reloads._versions.pop(name, None)
    for name in cloudpickle.list_registry_pickle_by_value() - registered:
        cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.discard(name)
