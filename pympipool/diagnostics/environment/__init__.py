"""What pympipool finds where it runs: facts as data, and what follows from them.

    machine.py      Python, processors, memory, limits, GPUs ─┐
    mpi.py          the MPI library and its mpiexec          ─┼─► Environment ─► problems.py: what is wrong, and the remedy
    schedulers.py   SLURM, flux, what "auto" takes           ─┘

Looking harms nothing and raises nothing: what cannot be found out is None, or says why. Each fact has a time limit, so that
`probe` ends on a machine where a scheduler hangs, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from pympipool.diagnostics.environment.machine import Installation, Machine, probe_installation, probe_machine
from pympipool.diagnostics.environment.mpi import Mpi, probe_mpi
from pympipool.diagnostics.environment.problems import Problem, find_problems
from pympipool.diagnostics.environment.schedulers import Schedulers, probe_schedulers

__all__ = ["Environment", "Problem", "probe"]


@dataclass(frozen=True)
class Environment:
    """What is found here.

    Attributes:
        installation: Python and pympipool.
        machine: This machine, and what this process may use of it.
        mpi: The MPI library and its mpiexec.
        schedulers: SLURM, flux, and the backend that "auto" takes.
        problems: What is wrong, and what is worth knowing.
    """

    installation: Installation
    machine: Machine
    mpi: Mpi
    schedulers: Schedulers
    problems: tuple[Problem, ...]


def probe() -> Environment:
    """Looks at everything; takes about half a second, as it starts a few programs to ask them.

    Examples:
        >>> found = probe()
        >>> found.machine.cores.usable <= found.machine.cores.machine
        True
    """
    facts = probe_installation(), probe_machine(), probe_mpi(), probe_schedulers()
    return Environment(*facts, problems=tuple(find_problems(*facts)))
