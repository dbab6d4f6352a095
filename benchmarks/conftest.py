"""Options and fixtures of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.samples import FULL, QUICK, Effort
from benchmarks.station import Stations


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="fewer cases, peers and rounds")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    return QUICK if request.config.getoption("--quick") else FULL


@pytest.fixture(scope="session")
def stations() -> Iterator[Stations]:
    """A process for each peer."""
    with Stations() as all_stations:
        yield all_stations
