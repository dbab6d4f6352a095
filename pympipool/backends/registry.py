"""The registry of backends: which spawners start the workers of each, and how "auto" chooses.

    choose(name, executor) -> Choice: the name of a backend, and why "auto" passed over those before it
    make_backend(name) ----> Backend: makes the spawners of one executor
    unavailable_reasons() -------------> for each backend why it cannot be used here, or None

To add one: its spawner in `spawners/`, a class like `LocalBackend` for what it may be asked for, and its
line in `BACKENDS`. "auto" takes the first of `CHOICES` that is there.
"""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pympipool._util.reprs import did_you_mean
from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool.backends.local.forkserver import ForkserverSpawner
    from pympipool.backends.local.mpiexec import MpiexecSpawner
    from pympipool.backends.relay_process import Relay
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Resources


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

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of it."""


class LocalBackend:
    """Workers of this machine: processes, or MPI jobs for more than one core."""

    name = "mpi"
    assigns_devices = False

    def __init__(self) -> None:
        self._template: ForkserverSpawner | None = None
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
        if resources.pmi_mode is not None:
            raise ValueError(
                f"pmi_mode is {resources.pmi_mode!r}; it is for flux and SLURM: backend 'mpi' starts ranks with the mpiexec of"
                " their MPI library, which needs none"
            )

    def for_block(self, resources: Resources) -> Spawner:
        """Fresh interpreters for the first workers of one core, forks for further ones; mpiexec for more cores."""
        if resources.cores > 1:
            return self._mpi_spawner()
        if start_method(os.environ) == "spawn":
            from pympipool.backends.local.direct import LocalSpawner

            return LocalSpawner()
        from pympipool.backends.local.hybrid import HybridSpawner

        return HybridSpawner()

    def for_call(self, resources: Resources) -> Spawner:
        """A fork of a warm template for a call on one core, a fresh interpreter where one must not fork; else mpiexec."""
        from pympipool.backends.local.forkserver import ForkserverSpawner

        if resources.cores > 1 or start_method(os.environ) == "spawn":
            return self.for_block(resources)
        if self._template is None:
            self._template = ForkserverSpawner()
        return self._template

    def _mpi_spawner(self) -> MpiexecSpawner:
        from pympipool.backends.local.mpiexec import MpiexecSpawner

        if self._mpiexec is None:
            self._mpiexec = MpiexecSpawner()
        return self._mpiexec

    def close(self) -> None:
        """Ends the template."""
        if self._template is not None:
            self._template.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of the template."""
        if self._template is not None:
            self._template.after_fork_in_child()


def start_method(environ: Mapping[str, str]) -> str:
    """How processes for single calls, and those of many workers, come to be: "fork" or "spawn", as PYMPIPOOL_START_METHOD says.

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


class _Scheduler(ABC):
    """What the backends have in common that ask a scheduler for workers, on any host."""

    assigns_devices = True

    def __init__(self) -> None:
        self._spawners: dict[Resources, Spawner] = {}
        self._relay: Relay | None = None

    @abstractmethod
    def _make_spawner(self, resources: Resources) -> Spawner: ...

    def for_block(self, resources: Resources) -> Spawner:
        """A job, or a step of one, for each worker."""
        return self.for_call(resources)

    def for_call(self, resources: Resources) -> Spawner:
        """A job, or a step of one, for each call."""
        spawner = self._spawners.get(resources)
        if spawner is None:
            spawner = self._spawners[resources] = self._make_spawner(resources)
        return spawner

    def _relay_for(self, resources: Resources) -> Relay:
        """The executor's relay to workers on other hosts; it starts with the first of them."""
        from pympipool.backends.relay_process import Relay

        if self._relay is None:
            self._relay = Relay(local_only=resources.hostname_localhost)
        return self._relay

    def close(self) -> None:
        """Ends the relay."""
        if self._relay is not None:
            self._relay.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of the relay."""
        if self._relay is not None:
            self._relay.after_fork_in_child()


class Slurm(_Scheduler):
    """Workers that SLURM starts with srun: steps of the job that the script runs in, or jobs of their own."""

    name = "slurm"

    def __init__(self) -> None:
        from pympipool.backends.slurm.spawner import check_slurm

        check_slurm()
        super().__init__()

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

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.slurm.spawner import SlurmSpawner

        return SlurmSpawner(resources, self._relay_for(resources))


class Flux(_Scheduler):
    """Workers that flux starts as jobs of the instance that the script runs in, or can reach."""

    name = "flux"

    def __init__(self) -> None:
        from pympipool.backends.flux.spawner import FluxSession, all_hosts_are_this_one, size_of_instance

        self._size = size_of_instance()
        super().__init__()
        self._jobs = FluxSession()
        self._has_other_hosts = not all_hosts_are_this_one()

    def available_cores(self) -> int:
        """The cores of the instance."""
        return self._size.cores

    def check(self, resources: Resources) -> None:
        """Nothing of SLURM's can be asked for, and no more ranks than cores."""
        if resources.executor is not None:
            _check_flux_executor(resources.executor)
        if resources.oversubscribe:
            raise ValueError(
                "oversubscribe is True; flux gives each core to one rank at a time, so backend 'flux' cannot start more"
                " ranks than there are cores: leave it False, or use fewer cores"
            )
        if resources.command_line_argument_lst:
            raise ValueError(
                f"command_line_argument_lst is {list(resources.command_line_argument_lst)!r}; it is for srun, with SLURM:"
                " backend 'flux' takes none"
            )

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.flux.spawner import FluxSpawner

        return FluxSpawner(resources, self._jobs, self._relay_for(resources) if self._has_other_hosts else None)

    def close(self) -> None:
        """Ends the relay, the guard, and what talks with flux."""
        super().close()
        self._jobs.close()

    def after_fork_in_child(self) -> None:
        """In a forked child: lets go of them."""
        super().after_fork_in_child()
        self._jobs.after_fork_in_child()


def _check_flux_executor(executor: Any) -> None:
    from pympipool.backends.flux.spawner import is_flux_executor

    if not is_flux_executor(executor):
        raise TypeError(f"executor is {executor!r}; it must be a flux.job.FluxExecutor")


def cores_of_job(environ: Mapping[str, str]) -> int | None:
    """The cores of the job of SLURM that has this environment; None when it is in none.

    Examples:
        >>> cores_of_job({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"})
        20
    """
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return sum(int(cores) * int(nodes or 1) for cores, nodes in groups) or None


PROBE_TIMEOUT_S = 3.0
"""How long "auto" waits for a scheduler's answer where nothing says that there is one; a healthy one takes 0.02 s."""


STEPS_END = 0xFFFFFFFA
"""Numbers from here on are of what runs in a job beside its steps, and takes no cores from them: its script, the shell of
`salloc` (SLURM_INTERACTIVE_STEP in slurm.h)."""


def is_step(environ: Mapping[str, str]) -> bool:
    """Whether this process is a step of SLURM's that has cores of its own: a worker, or what `srun` has started.

    Examples:
        >>> is_step({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}), is_step({"SLURM_JOB_ID": "7"})
        (True, False)
    """
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < STEPS_END


def _why_not_slurm() -> str | None:
    from pympipool.backends.slurm.spawner import CONTROLLER_LIMIT_S, why_no_slurm_lately

    if is_step(os.environ):
        return (
            "this process is itself a step of SLURM's, started by srun or by an executor: it uses the cores that it has, while"
            " further steps might wait for them for ever; backend='slurm' asks for such steps"
        )
    return why_no_slurm_lately(CONTROLLER_LIMIT_S if "SLURM_JOB_ID" in os.environ else PROBE_TIMEOUT_S)


def _why_not_flux() -> str | None:
    from pympipool.backends.flux.spawner import BROKER_LIMIT_S, why_no_flux

    return why_no_flux(BROKER_LIMIT_S if "FLUX_URI" in os.environ else PROBE_TIMEOUT_S)


BACKENDS: dict[str, Callable[[], Backend]] = {"flux": Flux, "slurm": Slurm, "mpi": LocalBackend}

CHOICES: dict[str, Callable[[], str | None]] = {"flux": _why_not_flux, "slurm": _why_not_slurm, "mpi": lambda: None}
"""What "auto" looks for, in this order, and what says why it cannot be used here."""


def unavailable_reasons() -> dict[str, str | None]:
    """For each backend that "auto" knows, in its order, why it cannot be used here; None: it can be.

    Examples:
        >>> unavailable_reasons()["mpi"] is None
        True
    """
    return {name: problem() for name, problem in CHOICES.items()}


class Choice(NamedTuple):
    """A backend, and why "auto" passed over others that it would have preferred (by name; empty: none was)."""

    name: str
    passed_over: dict[str, str]


def choose(name: str, executor: Any = None) -> Choice:
    """The backend that a user means by a name.

    Args:
        name: That of a backend, or "auto".
        executor: The FluxExecutor that the user has given, or None; it makes "auto" take flux.

    Raises:
        TypeError, ValueError: There is no such backend, or executor is something else.
    """
    known = ["auto", *BACKENDS]
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; it must be one of {', '.join(map(repr, known))}")
    if name == "auto":
        if executor is None:
            return _choose_for_lack_of_a_name()
        _check_flux_executor(executor)
        name = "flux"
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; it can be {', '.join(map(repr, known))}{did_you_mean(name, known)}")
    return Choice(name, {})


def _choose_for_lack_of_a_name() -> Choice:
    passed_over: dict[str, str] = {}
    for name, look in CHOICES.items():
        problem = look()
        if problem is None:
            return Choice(name, passed_over)
        passed_over[name] = problem
    raise AssertionError("this machine is always there")


def make_backend(name: str) -> Backend:
    """The backend that is meant by a name (see `choose`).

    Raises:
        TypeError, ValueError: There is none.
        WorkerStartError: What it needs is not there.
    """
    return BACKENDS[choose(name).name]()
