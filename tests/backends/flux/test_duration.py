"""The time that a job is limited to. Tests with a real flux are in tests/flux_framework/test_terms.py."""

from __future__ import annotations

from time import time

import pytest

from pympipool.backends.flux.duration import DurationLimits
from pympipool.resources import Resources

LIMIT = {"policy": {"limits": {"duration": "1h"}}}
DEFAULT = {"policy": {"limits": {"duration": "1h"}, "jobspec": {"defaults": {"system": {"duration": "30m"}}}}}
QUEUES = {
    "policy": {"limits": {"duration": "1h"}, "jobspec": {"defaults": {"system": {"queue": "debug"}}}},
    "queues": {
        "debug": {"policy": {"limits": {"duration": "5m"}}},
        "long": {"policy": {"limits": {"duration": "0"}}},
        "other": {"requires": ["other"]},
    },
}
OF_CALL = Resources(run_time_max=30, connect_timeout=60).call_duration_s


@pytest.mark.parametrize(
    ("configuration", "parameters", "seconds"),
    [
        ({}, {}, 0),
        ({}, {"run_time_max": 30}, OF_CALL),
        ({}, {"run_time_max": 30, "time_limit": 20}, 20),
        (LIMIT, {}, 3600),
        (LIMIT, {"run_time_max": 30}, OF_CALL),
        (LIMIT, {"run_time_max": 7200}, 3600),
        (LIMIT, {"time_limit": 7200}, 7200),
        (DEFAULT, {}, 0),
        (DEFAULT, {"run_time_max": 7200}, 3600),
        (QUEUES, {}, 300),
        (QUEUES, {"partition": "long"}, 0),
        (QUEUES, {"partition": "long", "run_time_max": 7200}, 7320),
        (QUEUES, {"partition": "other"}, 3600),
        ({"policy": {"limits": {"duration": "inf"}}}, {}, 0),
    ],
)
def test_duration_is_what_flux_takes(configuration, parameters, seconds):
    assert DurationLimits(configuration).seconds(Resources(**parameters)) == seconds


@pytest.mark.parametrize(("left_s", "seconds"), [(OF_CALL + 60, OF_CALL), (OF_CALL, 0), (-1, 0)])
def test_jobs_end_with_their_instance(left_s, seconds):
    limits = DurationLimits({}, time() + left_s)
    assert limits.seconds(Resources(run_time_max=30)) == seconds
