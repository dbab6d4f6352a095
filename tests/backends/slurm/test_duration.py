"""The time that SLURM is asked for. tests/slurm asks a real one."""

from __future__ import annotations

import subprocess

import pytest

from pympipool.backends.slurm import duration
from pympipool.backends.slurm.duration import PartitionLimits, parse_limits
from pympipool.resources import Resources

PRINTED = "short* 2:00\nlong 7-00:00:00\nfree infinite\nodd n/a\n"


@pytest.fixture
def asked(monkeypatch):
    """Return the commands that were run; sinfo prints `PRINTED`."""
    commands = []

    def run(command, **_options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, PRINTED, "")

    monkeypatch.setattr(duration, "run", run)
    return commands


@pytest.fixture
def option(asked):
    def option(environ=None, **parameters):
        limits = PartitionLimits()
        resources = Resources(connect_timeout=30, **parameters)
        limits.learn(resources, environ or {})
        return limits.option(resources, environ or {})

    return option


def test_forms_of_time_are_read():
    assert parse_limits("a* 30:00\nb 1:00:00\nc 2-00:00:01\nd infinite\ne n/a\n\n") == {
        "a": 1800, "": 1800, "b": 3600, "c": 172_801, "d": float("inf")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "minutes"),
    [
        ({}, None),
        ({"run_time_max": 10}, 2),
        ({"run_time_max": 1000}, 2),  # all that the default partition allows
        ({"run_time_max": 1000, "partition": "long"}, 19),
        ({"run_time_max": 1e9, "partition": "long"}, 10_080),
        ({"run_time_max": 1000, "partition": "long,short"}, 2),
        ({"run_time_max": 1e300, "partition": "free"}, None),
        ({"run_time_max": 1000, "partition": "unknown"}, None),
        ({"run_time_max": 1000, "command_line_argument_lst": ["--qos=long"]}, None),
        ({"run_time_max": 1000, "command_line_argument_lst": ["-plong"]}, None),
        ({"run_time_max": 1000, "time_limit": 601}, 11),
        ({"time_limit": 601, "command_line_argument_lst": ["-plong"]}, 11),
    ],
)
def test_time_is_what_partition_allows(option, parameters, minutes):
    assert option(**parameters) == ([] if minutes is None else [f"--time={minutes}"])


def test_partition_is_that_of_the_job(option):
    assert option({"SLURM_JOB_PARTITION": "long"}, run_time_max=1000) == ["--time=19"]
    assert option({"SLURM_PARTITION": "long"}, run_time_max=1000) == ["--time=19"]


def test_partitions_are_asked_for_once(asked):
    limits = PartitionLimits()
    limits.learn(Resources(), {})
    limits.learn(Resources(run_time_max=10, time_limit=10), {})
    assert asked == []
    for _ in range(2):
        limits.learn(Resources(run_time_max=10), {})
    assert len(asked) == 1


def test_without_an_answer_no_time_is_set(monkeypatch):
    def fail(command, **_options):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(duration, "run", fail)
    limits = PartitionLimits()
    limits.learn(Resources(run_time_max=10), {})
    assert limits.option(Resources(run_time_max=10), {}) == []
