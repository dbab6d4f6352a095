"""Options and fixtures of the benchmarks."""

from __future__ import annotations

import os

import pytest

from benchmarks import limits
from benchmarks.rounds import FULL, QUICK, Effort


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="fewer cases, peers and rounds")


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    return QUICK if request.config.getoption("--quick") else FULL


@pytest.fixture(scope="session", autouse=True)
def importable_calls() -> None:
    """Workers of every peer find the functions they are asked to run."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
