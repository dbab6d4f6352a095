"""The time that SLURM is asked for, for a worker.

SLURM refuses a step or a job that asks for more time than its partition allows, or lets it wait for ever. So the time that
follows from `run_time_max` is cut to that of the partition. It is not asked for where the partition is not known.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping

from pympipool._util.subprocesses import run
from pympipool.backends.slurm.availability import CONTROLLER_TIMEOUT_S
from pympipool.resources import Resources

LONGEST_S = 365 * 86_400.0
"""Seconds of the longest time that is asked for because of `run_time_max`. A larger one stands for no limit."""

_OPTIONS_OF_QUEUES = ("-p", "--partition", "-q", "--qos", "-M", "--cluster")
"""Options of the user with which other limits hold than those of the partition that is asked for here."""


class PartitionLimits:
    """The longest times that SLURM's partitions allow, as far as they are known."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}  # by partition; "" is the default one
        self._was_asked = False

    def learn(self, resources: Resources, environ: Mapping[str, str]) -> None:
        """Ask the controller for the partitions, once, if the time for these resources depends on them."""
        if resources.time_limit is None and resources.run_time_max is not None and not self._was_asked:
            self._was_asked = True
            environment = {name: value for name, value in environ.items() if not name.startswith("SINFO_")}
            command = ["sinfo", "--all", "--noheader", "--format=%P %l"]
            try:
                answer = run(command, timeout=CONTROLLER_TIMEOUT_S, env=environment)
            except (OSError, subprocess.SubprocessError):
                return  # no time is asked for
            self._seconds = parse_limits(answer.stdout)

    def option(self, resources: Resources, environ: Mapping[str, str]) -> list[str]:
        """Return srun's option for the time of a worker; an empty list if no time is asked for."""
        seconds = resources.call_duration_s
        if seconds is not None and resources.time_limit is None:
            seconds = min(seconds, self._longest_s(resources, environ))
            if not 0 < seconds <= LONGEST_S:
                return []
        return [] if seconds is None else [f"--time={math.ceil(seconds / 60)}"]  # SLURM counts in minutes

    def _longest_s(self, resources: Resources, environ: Mapping[str, str]) -> float:
        """Return the longest time that the partition of a worker allows; 0 if it is not known."""
        if any(option.startswith(_OPTIONS_OF_QUEUES) for option in resources.command_line_argument_lst):
            return 0.0
        of_script = environ.get("SLURM_JOB_PARTITION") or environ.get("SLURM_PARTITION", "")
        return min(self._seconds.get(name, 0.0) for name in (resources.partition or of_script).split(","))


def parse_limits(output: str) -> dict[str, float]:
    r"""Return the longest time (s) of each partition in what sinfo prints; that of the default partition also under "".

    Examples:
        >>> parse_limits("debug* 30:00\nlong 7-12:00:00\nfree infinite")
        {'debug': 1800.0, '': 1800.0, 'long': 648000.0, 'free': inf}
    """
    limits = {}
    for line in output.splitlines():
        partition, _, limit = line.strip().rpartition(" ")
        days, _, clock = limit.rpartition("-")
        units = clock.split(":")
        if clock == "infinite":
            seconds = math.inf
        elif all(unit.isdigit() for unit in units):
            seconds = float(int(days or 0) * 86_400 + sum(int(n) * 60**i for i, n in enumerate(reversed(units))))
        else:
            continue
        limits[partition.rstrip("*")] = seconds
        if partition.endswith("*"):
            limits[""] = seconds
    return limits
