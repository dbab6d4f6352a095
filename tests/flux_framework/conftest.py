"""A real flux for the tests, wherever the program `flux` is: one broker, and two on one host.

instance    both in turn: its jobs are gone after each test, and FLUX_URI names it
one_broker  the first of them
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.places import SCHEDULER_TIMEOUT_S


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.flux)
            item.add_marker(pytest.mark.timeout(SCHEDULER_TIMEOUT_S))


@pytest.fixture(params=["one broker", "two brokers"])
def instance(request, monkeypatch):
    yield from _visit(request.getfixturevalue("running_" + request.param.replace(" ", "_")), monkeypatch)


@pytest.fixture
def one_broker(running_one_broker, monkeypatch):
    yield from _visit(running_one_broker, monkeypatch)


@pytest.fixture
def two_brokers(running_two_brokers, monkeypatch):
    yield from _visit(running_two_brokers, monkeypatch)


def _visit(instance, monkeypatch):
    monkeypatch.setenv("FLUX_URI", instance.uri)
    yield instance
    assert instance.wait_until_empty() == []


@pytest.fixture
def flux_executor(opened):
    """Of the instance under test; must be asked for after it."""
    import flux.job

    with flux.job.FluxExecutor() as executor:
        yield executor
        while opened:  # it waits for its jobs
            opened.pop().shutdown()
