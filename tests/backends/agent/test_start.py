"""Agents whose master has ended before they could connect to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import pympipool
from pympipool.backends.agent.launcher import agent_command
from pympipool.backends.program import worker_environment
from pympipool.backends.spawner import LaunchRequest

UNREACHABLE = "240.0.0.1:9 127.0.0.1:9"
"""An address that no host may have, and one at which nothing listens: as after the end of a master with two networks."""


@pytest.fixture
def agent():
    settings = {
        "PYMPIPOOL_ADDRESS": "@none",
        "PYMPIPOOL_KEY": "00" * 32,
        "PYMPIPOOL_PATH": str(Path(pympipool.__file__).parents[1]),
        "PYMPIPOOL_WORKER": "0",
        "PYMPIPOOL_RANKS": "1",
        "PYMPIPOOL_TCP": UNREACHABLE,
        "PYMPIPOOL_CONNECT_S": "3600",
    }
    environment = worker_environment(LaunchRequest(0, environment=settings))
    with subprocess.Popen(
        agent_command(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_unconnected_agent_ends_with_its_launcher(agent):
    assert agent.stdout.readline() == "\n"  # it has tried once
    assert agent.poll() is None
    agent.stdout.close()
    assert "cannot connect to the master" in agent.stderr.read()
    assert agent.wait(60) == 1
