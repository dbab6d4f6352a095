"""Jobs of PBS (OpenPBS, PBS Pro, Torque): a file names each host once for each of its slots."""

from __future__ import annotations

from collections.abc import Mapping

from pympipool.backends.hosts.scheduler import Scheduler
from pympipool.backends.hosts.shells import Mpiexec
from pympipool.resources import Host
from pympipool.resources.hosts import merged, read_lines


def hosts_of_job(environ: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts of a job.

    A chunk of several cores without `mpiprocs` is one line of the file; then NCPUS (PBS Pro) tells its cores.

    Raises:
        ValueError: The file cannot be read.
    """
    path = environ.get("PBS_NODEFILE", "")
    lines = read_lines("PBS_NODEFILE", path) if path else []
    cores = environ.get("NCPUS", "")
    each = int(cores) if cores.isdecimal() and len(set(lines)) == len(lines) else 1
    return merged(Host(name, max(each, 1)) for name in lines)


PBS = Scheduler("pbs", "PBS", ("PBS_NODEFILE",), "qsub", hosts_of_job, Mpiexec)
