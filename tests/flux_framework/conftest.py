"""Tests with a real flux, wherever the program `flux` is installed.

instance       each of the next two in turn; FLUX_URI names it, and its jobs must be gone after the test
one_broker     an instance of one broker
two_brokers    an instance of two brokers on one host
job_each       this process takes itself for a job of the instance: so each worker is a job, and none is forked by an agent

The folder is not called flux, because the tests are on the Python path and flux's bindings have that name.
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


@pytest.fixture
def job_each(monkeypatch):
    monkeypatch.setenv("FLUX_JOB_ID", "of the test")


def _visit(instance, monkeypatch):
    monkeypatch.setenv("FLUX_URI", instance.uri)
    yield instance
    assert instance.wait_until_empty() == []


@pytest.fixture
def flux_executor(opened):
    """flux's own executor for the instance under test. A test must request the instance before it."""
    import flux.job

    with flux.job.FluxExecutor() as executor:
        yield executor
        while opened:  # it waits for its jobs
            opened.pop().shutdown()
