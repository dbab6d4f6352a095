"""The registry of backends: which spawners start the workers of each, and how "auto" chooses.

To add one: its spawner in `spawners/`, a class like `ThisMachine` for what it may be asked for, and its
line in `BACKENDS`.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pympipool.resources import Resources
    from pympipool.spawners.base import Spawner
    from pympipool.spawners.mpiexec import MpiexecSpawner
    from pympipool.spawners.template import TemplateSpawner


class Backend(Protocol):
    """Makes the spawners of one executor."""

    name: str

    def check(self, resources: Resources) -> None:
        """Raises ValueError for what this backend cannot do."""

    def for_block(self, resources: Resources) -> Spawner:
        """The spawner of workers that serve many calls.

        Raises:
            WorkerStartError: what it needs is not installed.
        """

    def for_call(self, resources: Resources) -> Spawner:
        """The spawner of a worker for a single call (see `for_block`)."""

    def close(self) -> None:
        """Ends what the spawners keep running."""

    def abandon(self) -> None:
        """In a forked child: lets go of it."""


class ThisMachine:
    """Workers of this machine: processes, or MPI jobs for more than one core."""

    name = "mpi"

    def __init__(self) -> None:
        self._template: TemplateSpawner | None = None
        self._mpiexec: MpiexecSpawner | None = None

    def check(self, resources: Resources) -> None:
        """Nothing of a scheduler's can be asked for."""
        if resources.executor is not None:
            raise ValueError(
                f"executor is {resources.executor!r}; backend 'mpi' takes none: it is for a flux.job.FluxExecutor, with flux"
            )
        if resources.command_line_argument_lst:
            raise ValueError(
                f"command_line_argument_lst is {list(resources.command_line_argument_lst)!r}; it is for srun, with SLURM:"
                " backend 'mpi' takes none"
            )

    def for_block(self, resources: Resources) -> Spawner:
        """A fresh interpreter for each worker of one core, else mpiexec."""
        from pympipool.spawners.local import LocalSpawner

        return LocalSpawner() if resources.cores == 1 else self._mpi_spawner()

    def for_call(self, resources: Resources) -> Spawner:
        """A fork of a warm template for a call on one core, else mpiexec."""
        from pympipool.spawners.template import TemplateSpawner

        if resources.cores > 1:
            return self._mpi_spawner()
        if self._template is None:
            self._template = TemplateSpawner()
        return self._template

    def _mpi_spawner(self) -> MpiexecSpawner:
        from pympipool.spawners.mpiexec import MpiexecSpawner

        if self._mpiexec is None:
            self._mpiexec = MpiexecSpawner()
        return self._mpiexec

    def close(self) -> None:
        """Ends the template."""
        if self._template is not None:
            self._template.close()

    def abandon(self) -> None:
        """In a forked child: lets go of the template."""
        if self._template is not None:
            self._template.abandon()


BACKENDS: dict[str, type[Backend]] = {"mpi": ThisMachine}

PLANNED = {"slurm": "SLURM", "flux": "flux"}
"""Backends that this version does not have yet."""


def make_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        TypeError, ValueError: there is none.
    """
    known = ["auto", *BACKENDS]
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; it must be one of {', '.join(map(repr, known))}")
    if name in PLANNED:
        raise ValueError(
            f"backend is {name!r}: {PLANNED[name]} is not supported by this version of pympipool; it can be"
            f" {', '.join(map(repr, known))}"
        )
    if name == "auto":
        name = "mpi"
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"backend is {name!r}; it can be {', '.join(map(repr, known))}{meant}")
    return BACKENDS[name]()
