"""The time that a worker's job is limited to.

Flux refuses a job that asks for more time than the limit of its queue, or than the instance has left, and a job that asks
for no time where there is a limit. So the time that follows from `run_time_max` is cut to what flux takes, and where flux
demands a time, and has no default, a job without `run_time_max` asks for the longest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from time import time
from typing import Any

from pympipool.resources import Resources

CLOCK_MARGIN_S = 5.0
"""Seconds that a job asks for less than the instance has left: the submission takes time, and the hosts' clocks differ."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class DurationLimits:
    """The times that the queues of a flux instance allow.

    Args:
        configuration: The configuration of the instance (`flux config get`).
        expiration_s: The time when the instance ends, in seconds since 1970; 0: it has no end.

    Examples:
        >>> limits = DurationLimits({"policy": {"limits": {"duration": "1h"}}})
        >>> limits.seconds(Resources()), limits.seconds(Resources(time_limit=60))
        (3600.0, 60.0)
    """

    def __init__(self, configuration: Mapping[str, Any], expiration_s: float = 0.0) -> None:
        self._configuration = configuration
        self._expiration_s = expiration_s

    def seconds(self, resources: Resources) -> float:
        """Return the duration of the job of a worker; 0: as flux is configured, or as long as the instance lives."""
        if resources.time_limit is not None:
            return resources.time_limit
        wanted = resources.call_duration_s or 0.0
        longest = self._of_queue(resources.partition, "limits", "duration")
        if 0 < longest < math.inf and (wanted > longest or not (wanted or self._has_default(resources.partition))):
            wanted = longest
        if self._expiration_s and wanted > self._expiration_s - time() - CLOCK_MARGIN_S:
            return 0.0
        return wanted

    def _has_default(self, queue: str | None) -> bool:
        return self._of_queue(queue, "jobspec", "defaults", "system", "duration") > 0

    def _of_queue(self, queue: str | None, *keys: str) -> float:
        """Return the seconds that the policy of a queue has under these keys, else those of the general policy; 0: none."""
        general = self._configuration.get("policy", {})
        name = queue or _look_up(general, "jobspec", "defaults", "system", "queue")
        of_queue = _look_up(self._configuration, "queues", name, "policy", *keys)
        return parse_duration(_look_up(general, *keys) if of_queue is None else of_queue)


def _look_up(table: Any, *keys: Any) -> Any:
    """Return the value under nested keys; None if there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def parse_duration(value: Any) -> float:
    """Return the seconds in a duration of flux: a number, or a text in its standard form. 0 if there is none.

    Examples:
        >>> parse_duration("1.5h"), parse_duration(60), parse_duration("infinity"), parse_duration(None)
        (5400.0, 60.0, inf, 0.0)
    """
    if isinstance(value, int | float):
        return float(value)
    match = re.fullmatch(r"([0-9.eE+-]+|inf|infinity)(ms|s|m|h|d|)", str(value).lower())
    if match is None:
        return 0.0
    try:
        return float(match[1]) * _UNITS_S[match[2]]
    except ValueError:
        return 0.0
