"""Parallel jobs of Grid Engine: a file has a line for each host, with the number of its slots, its queue, and its processors."""

from __future__ import annotations

from collections.abc import Mapping

from pympipool.backends.hosts.scheduler import Scheduler
from pympipool.backends.hosts.shells import Qrsh
from pympipool.resources import Host
from pympipool.resources.hosts import merged, read_lines


def hosts_of_job(environ: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts of a job in a parallel environment.

    Raises:
        ValueError: The file cannot be read, or has another form.
    """
    path = environ.get("PE_HOSTFILE", "")
    hosts = []
    for line in read_lines("PE_HOSTFILE", path) if path else []:
        name, *more = line.split()
        if not more or not more[0].isdecimal():
            raise ValueError(f"PE_HOSTFILE is {path!r}, and has the line {line!r} without a number of slots")
        hosts.append(Host(name, int(more[0])))
    return merged(host for host in hosts if host.slots)


GRID_ENGINE = Scheduler("gridengine", "Grid Engine", ("PE_HOSTFILE",), "qsub -pe", hosts_of_job, Qrsh)
