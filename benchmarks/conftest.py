"""Options and fixtures of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.peer_process import PeerProcesses
from benchmarks.samples import FULL, QUICK, Effort


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="fewer cases, peers and rounds")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    return QUICK if request.config.getoption("--quick") else FULL


@pytest.fixture(scope="session")
def peer_processes() -> Iterator[PeerProcesses]:
    """Return the peer processes of this session."""
    with PeerProcesses() as processes:
        yield processes
