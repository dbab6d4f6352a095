"""The registry of backends: which spawners start the workers of each, and how "auto" chooses.

To add one: its spawner in `spawners/`, a class like `ThisMachine` for what it may be asked for, and its
line in `BACKENDS`. "auto" takes the first of `CHOICES` that is there.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool.resources import Resources
    from pympipool.spawners.base import Spawner
    from pympipool.spawners.mpiexec import MpiexecSpawner
    from pympipool.spawners.relay import Relay
    from pympipool.spawners.slurm import SlurmSpawner
    from pympipool.spawners.template import TemplateSpawner


class Backend(Protocol):
    """Makes the spawners of one executor.

    Attributes:
        name: What users call it.
        assigns_devices: It gives each worker its GPUs by itself; else the executor's ledger does.
    """

    name: str
    assigns_devices: bool

    def available_cores(self) -> int:
        """The cores of an executor whose user gives no number.

        Raises:
            ValueError: he must.
        """

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
    assigns_devices = False

    def __init__(self) -> None:
        self._template: TemplateSpawner | None = None
        self._mpiexec: MpiexecSpawner | None = None

    def available_cores(self) -> int:
        """The cores that this process may use."""
        return available_cores()

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
        """A fork of a warm template for a call on one core, a fresh interpreter where one must not fork; else mpiexec."""
        from pympipool.spawners.template import TemplateSpawner

        if resources.cores > 1 or start_method(os.environ) == "spawn":
            return self.for_block(resources)
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


def start_method(environ: Mapping[str, str]) -> str:
    """How a process for a single call comes to be: "fork" or "spawn", as PYMPIPOOL_START_METHOD says.

    Default: "fork" on Linux. "spawn" elsewhere: what macOS's libraries keep running does not survive a fork, which is why
    multiprocessing spawns there too (https://docs.python.org/3/library/multiprocessing.html), and Windows has none.

    Raises:
        ValueError: It says something else.

    Examples:
        >>> start_method({"PYMPIPOOL_START_METHOD": "spawn"})
        'spawn'
    """
    method = environ.get("PYMPIPOOL_START_METHOD") or ("fork" if sys.platform == "linux" else "spawn")
    if method not in ("fork", "spawn"):
        raise ValueError(f"PYMPIPOOL_START_METHOD is {method!r}; it can be 'fork' or 'spawn'")
    return method


class Slurm:
    """Workers that SLURM starts with srun: steps of the job that the script runs in, or jobs of their own."""

    name = "slurm"
    assigns_devices = True

    def __init__(self) -> None:
        from pympipool.spawners.slurm import check_slurm

        check_slurm()
        self._spawners: dict[Resources, SlurmSpawner] = {}
        self._relay: Relay | None = None

    def available_cores(self) -> int:
        """The cores of the job.

        Raises:
            ValueError: There is no job.
        """
        cores = cores_of_job(os.environ)
        if cores is None:
            raise ValueError(
                "max_cores is not given, and this script runs in no job of SLURM whose cores could be taken: say how"
                " many cores to ask SLURM for, or run it with sbatch or inside salloc"
            )
        return cores

    def check(self, resources: Resources) -> None:
        """Nothing of flux's can be asked for."""
        if resources.executor is not None:
            raise ValueError(
                f"executor is {resources.executor!r}; backend 'slurm' takes none: it is for a flux.job.FluxExecutor,"
                " with flux"
            )

    def for_block(self, resources: Resources) -> Spawner:
        """An srun for each worker."""
        return self.for_call(resources)

    def for_call(self, resources: Resources) -> Spawner:
        """An srun for each call."""
        from pympipool.spawners.relay import Relay
        from pympipool.spawners.slurm import SlurmSpawner

        if self._relay is None:
            self._relay = Relay(local_only=resources.hostname_localhost)
        spawner = self._spawners.get(resources)
        if spawner is None:
            spawner = self._spawners[resources] = SlurmSpawner(resources, self._relay)
        return spawner

    def close(self) -> None:
        """Ends the relay."""
        if self._relay is not None:
            self._relay.close()

    def abandon(self) -> None:
        """In a forked child: lets go of the relay."""
        if self._relay is not None:
            self._relay.abandon()


def cores_of_job(environ: Mapping[str, str]) -> int | None:
    """The cores of the job of SLURM that has this environment; None when it is in none.

    Examples:
        >>> cores_of_job({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"})
        20
    """
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return sum(int(cores) * int(nodes or 1) for cores, nodes in groups) or None


GLANCE_S = 3.0
"""How long "auto" waits for a scheduler's answer where nothing says that there is one; a healthy one takes 0.02 s."""


def _slurm_is_there() -> bool:
    from pympipool.spawners.slurm import CONTROLLER_LIMIT_S, why_no_slurm

    return why_no_slurm(CONTROLLER_LIMIT_S if "SLURM_JOB_ID" in os.environ else GLANCE_S) is None


BACKENDS: dict[str, Callable[[], Backend]] = {"slurm": Slurm, "mpi": ThisMachine}

CHOICES: dict[str, Callable[[], bool]] = {"slurm": _slurm_is_there}
"""What "auto" looks for, in this order; where nothing of it is found it takes this machine."""

PLANNED = {"flux": "flux"}
"""Backends that this version does not have yet."""


def make_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        TypeError, ValueError: there is none.
        WorkerStartError: what it needs is not there.
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
        name = next((choice for choice, is_there in CHOICES.items() if is_there()), "mpi")
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"backend is {name!r}; it can be {', '.join(map(repr, known))}{meant}")
    return BACKENDS[name]()
