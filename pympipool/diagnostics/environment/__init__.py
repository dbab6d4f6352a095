"""Probe the environment: facts about this machine as data, and the issues that follow from them.

    machine.py      Python, processors, memory, limits, GPUs ─┐
    mpi.py          the MPI library and its mpiexec          ─┼─► Environment ─► issues.py: what is wrong, and the remedy
    schedulers.py   SLURM, flux, what "auto" takes           ─┤
    shared_data.py  the shared data of this host             ─┘

Probing changes nothing and raises nothing. A fact that cannot be found out is None, or the reason as text. Each probe
has a timeout, so `probe` also ends on a machine where a scheduler hangs.
"""

from __future__ import annotations

from dataclasses import dataclass

from pympipool.diagnostics.environment.issues import Issue, find_issues
from pympipool.diagnostics.environment.machine import Installation, Machine, probe_installation, probe_machine
from pympipool.diagnostics.environment.mpi import Mpi, probe_mpi
from pympipool.diagnostics.environment.schedulers import Schedulers, probe_schedulers
from pympipool.diagnostics.environment.shared_data import SharedData, probe_shared_data

__all__ = ["Environment", "Issue", "probe"]


@dataclass(frozen=True)
class Environment:
    """Everything that `probe` found.

    Attributes:
        installation: Python and pympipool.
        machine: This machine, and the part of it that this process may use.
        mpi: The MPI library and its mpiexec.
        schedulers: SLURM, flux, and the backend that "auto" takes.
        shared_data: What processes of pympipool share on this host.
        issues: Everything that is wrong or worth knowing.
    """

    installation: Installation
    machine: Machine
    mpi: Mpi
    schedulers: Schedulers
    shared_data: SharedData
    issues: tuple[Issue, ...]


def probe() -> Environment:
    """Probe everything. This takes about half a second, because it starts a few programs.

    Examples:
        >>> found = probe()
        >>> found.machine.cores.usable <= found.machine.cores.machine
        True
    """
    facts = probe_installation(), probe_machine(), probe_mpi(), probe_schedulers()
    return Environment(*facts, probe_shared_data(), issues=tuple(find_issues(*facts)))
