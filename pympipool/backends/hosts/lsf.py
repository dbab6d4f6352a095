"""Jobs of LSF: a file names each host once for each of its slots; for jobs of few hosts, a variable does too."""

from __future__ import annotations

from collections.abc import Mapping

from pympipool.backends.hosts.scheduler import Scheduler
from pympipool.backends.hosts.shells import Mpiexec
from pympipool.resources import Host
from pympipool.resources.hosts import merged, read_lines


def hosts_of_job(environ: Mapping[str, str]) -> tuple[Host, ...]:
    """Return the hosts of a job.

    Raises:
        ValueError: The file cannot be read, or the variable has another form.

    Examples:
        >>> hosts_of_job({"LSB_MCPU_HOSTS": "hostA 8 hostB 4"})
        (Host(name='hostA', slots=8), Host(name='hostB', slots=4))
    """
    path = environ.get("LSB_DJOB_HOSTFILE", "")
    if path:
        return merged(Host(name, 1) for name in read_lines("LSB_DJOB_HOSTFILE", path))
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    names, counts = words[::2], words[1::2]
    if len(names) != len(counts) or not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise ValueError(f"LSB_MCPU_HOSTS is {' '.join(words)!r}, and not a list of hosts and numbers")
    return merged(Host(name, int(count)) for name, count in zip(names, counts, strict=True))


LSF = Scheduler("lsf", "LSF", ("LSB_DJOB_HOSTFILE", "LSB_MCPU_HOSTS"), "bsub", hosts_of_job, Mpiexec)
