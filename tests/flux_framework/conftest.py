"""A real flux for the tests, wherever the program `flux` is: one broker, and two on one host.

instance    both in turn: its jobs are gone after each test, and FLUX_URI names it
one_broker  the first of them
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_framework.instance import FluxInstance, why_no_flux_here


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.flux)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def make_instance(tmp_path_factory):
    problem = why_no_flux_here()
    if problem:
        pytest.skip(problem)
    instances = []

    def make(brokers, cores=8):
        instances.append(FluxInstance(tmp_path_factory.mktemp("flux") / "instance", brokers, cores))
        instances[-1].start()
        return instances[-1]

    yield make
    for instance in instances:
        instance.stop()


@pytest.fixture(scope="session")
def running_one_broker(make_instance):
    return make_instance(1)


@pytest.fixture(scope="session")
def running_two_brokers(make_instance):
    return make_instance(2, cores=4)


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
