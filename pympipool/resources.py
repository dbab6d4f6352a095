"""What a call or a worker needs, and what this machine has left.

    Executor(...) ─► Resources: the executor's ─┐
    resource_dict ─► Resources.from_dict ───────┴► Resources of a call ─► Ledger ─► Grant: cores and devices
                     checked where they are said                                    given back when the worker ends

Each parameter is declared, checked and documented once, in `Resources`.

A `Ledger` counts the cores and devices of an executor. Calls that wait for them stand in its line: they start in the
order in which they came, but a call that fits may pass others that wait for more than is free. So that these do not
wait for ever, the call that has waited longest is passed at most `PASSES_PER_CORE` times per core by calls that take
what it waits for; after that only those pass that leave enough for it.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pympipool.forks import run

__all__ = ["Devices", "Grant", "Ledger", "Resources", "available_cores", "available_devices", "positive_seconds"]

PASSES_PER_CORE = 8
"""How often, for each core of a ledger, smaller calls may pass the one that has waited longest.

Enough that a machine full of small calls is not drained for every large one, few enough that the large one's wait
is bounded by the time of this many calls per core."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""By which numerical libraries are told how many threads to use (OpenMP, OpenBLAS, MKL, Accelerate, numexpr)."""

Ticket = TypeVar("Ticket")


# ---- what is needed ----


def _count(least: int) -> Callable[[str, Any], int]:
    """A check for whole numbers of at least `least`; numpy's integers are welcome, bools are not."""

    def check(name: str, value: Any) -> int:
        if _is_bool(value):
            raise TypeError(f"{name} is {value!r}; it must be an integer, not a bool")
        try:
            count = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be an integer") from None
        if count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}")
        return count

    return check


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # Python's, and numpy's by either of its names


def _flag(name: str, value: Any) -> bool:
    if _is_bool(value):
        return bool(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be True or False")


def _optional_flag(name: str, value: Any) -> bool:
    return False if value is None else _flag(name, value)


def _folder(name: str, value: Any) -> str | None:
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a path (str or Path) or None")
    if not os.path.isdir(path):
        problem = "is not a directory" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{name} is {path!r}, which {problem} (looked for in {os.getcwd()}); create it first")
    return os.path.abspath(path)


def positive_seconds(name: str, value: Any, otherwise: str = "") -> float:
    """A check for durations.

    Args:
        name: What the user calls the parameter.
        value: What the user said.
        otherwise: What else is allowed, for the message.
    """
    try:
        seconds = math.nan if _is_bool(value) or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        kind = type(value).__name__
        raise TypeError(f"{name} is {value!r}, of type {kind}; it must be a number of seconds{otherwise}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a positive, finite number of seconds{otherwise}")
    return seconds


def _seconds_or_none(name: str, value: Any) -> float | None:
    return None if value is None else positive_seconds(name, value, ", or None for no limit")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a list of str, one per argument")


def _anything(name: str, value: Any) -> Any:  # noqa: ARG001  the backend that takes it checks it
    return value


@dataclass(frozen=True)
class Resources:
    """What a call, or each worker of an executor, needs. Also the keys of `resource_dict`.

    Wrong values raise at once, with the parameter, its value and what is allowed.

    Args:
        cores: MPI ranks that run the call together, each on a core. With 2 or more the result is the list of what the
            ranks returned.
        threads_per_core: Threads that numerical libraries use in each rank (see `threads_environment`). Counts against
            nothing else: cores are counted by ranks.
        gpus_per_core: Devices for each rank. With 0 the devices are left as the user's environment has them.
        oversubscribe: Lets MPI start more ranks than it sees cores. Cores are counted all the same.
        cwd: Working directory; it must exist. None: the master's.
        executor: The `flux.job.FluxExecutor` to submit to; only with the flux backend.
        hostname_localhost: Workers connect to "localhost" instead of the host's name, which may not resolve on macOS.
        command_line_argument_lst: Further arguments for `srun`; only with the SLURM backend.
        run_time_max: Seconds that the call may run; then it fails with TimeoutError. None: no limit.
        restart_limit: How often a call is tried again whose worker died while it ran.
        connect_timeout: Seconds that a worker may take, from the start of its processes, until it has connected to the
            master. Waiting in a scheduler's queue does not count.

    Raises:
        TypeError: A value is of a wrong type.
        ValueError: A value is out of range, or a directory is missing.

    Examples:
        >>> Resources(cores=2, gpus_per_core=1).gpus
        2
        >>> Resources(cores=0)
        Traceback (most recent call last):
            ...
        ValueError: cores is 0; it must be at least 1
    """

    cores: int = field(default=1, metadata={"check": _count(1)})
    threads_per_core: int = field(default=1, metadata={"check": _count(1)})
    gpus_per_core: int = field(default=0, metadata={"check": _count(0)})
    oversubscribe: bool = field(default=False, metadata={"check": _flag})
    cwd: str | None = field(default=None, metadata={"check": _folder})
    executor: Any = field(default=None, metadata={"check": _anything})
    hostname_localhost: bool = field(default=False, metadata={"check": _optional_flag})
    command_line_argument_lst: tuple[str, ...] = field(default=(), metadata={"check": _texts})
    run_time_max: float | None = field(default=None, metadata={"check": _seconds_or_none})
    restart_limit: int = field(default=0, metadata={"check": _count(0)})
    connect_timeout: float = field(default=60.0, metadata={"check": positive_seconds})

    def __post_init__(self) -> None:
        for name in _PARAMETERS:
            object.__setattr__(self, name, self.check(name, getattr(self, name)))

    @staticmethod
    def check(parameter: str, value: Any, name: str = "") -> Any:
        """A value for a parameter, as it is kept.

        Args:
            parameter: One of the parameters of this class.
            value: What the user said.
            name: What the user calls the parameter, if not the same (the executor's `cores_per_worker`, say).

        Examples:
            >>> Resources.check("cores", True, "cores_per_worker")
            Traceback (most recent call last):
                ...
            TypeError: cores_per_worker is True; it must be an integer, not a bool
        """
        return _PARAMETERS[parameter](name or parameter, value)

    @classmethod
    def from_dict(cls, resource_dict: Mapping[str, Any] | None, default: Resources | None = None) -> Resources:
        """The resources of a call.

        Args:
            resource_dict: Parameters of this class that the call sets itself.
            default: Where all others come from: the executor's.

        Raises:
            TypeError: resource_dict is no dict; or as for the class.
            ValueError: There is no such parameter; or as for the class.

        Examples:
            >>> Resources.from_dict({"cores": 2}, Resources(threads_per_core=4)).threads_per_core
            4
            >>> Resources.from_dict({"core": 2})  # doctest: +ELLIPSIS
            Traceback (most recent call last):
                ...
            ValueError: resource_dict has the unknown key 'core'; did you mean 'cores'? Allowed are: cores, ...
        """
        default = cls() if default is None else default
        if resource_dict is None:
            return default
        if not isinstance(resource_dict, Mapping):
            raise TypeError(f"resource_dict is {resource_dict!r}; it must be a dict")
        for key in resource_dict:
            if key not in _PARAMETERS:
                raise ValueError(_unknown_key(key))
        return replace(default, **resource_dict) if resource_dict else default

    @property
    def gpus(self) -> int:
        """Devices of all ranks together."""
        return self.cores * self.gpus_per_core

    def threads_environment(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """What to add to a worker's environment so that libraries use `threads_per_core` threads.

        Args:
            environment: What the worker inherits, by default this process's environment. What the user has set there
                himself is left alone.

        Examples:
            >>> Resources(threads_per_core=2).threads_environment({"OMP_NUM_THREADS": "8"})["MKL_NUM_THREADS"]
            '2'
        """
        inherited = os.environ if environment is None else environment
        return {name: str(self.threads_per_core) for name in THREAD_VARIABLES if name not in inherited}


_PARAMETERS: dict[str, Callable[[str, Any], Any]] = {one.name: one.metadata["check"] for one in fields(Resources)}


def _unknown_key(key: Any) -> str:
    nearest = difflib.get_close_matches(str(key), _PARAMETERS, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"resource_dict has the unknown key {key!r}{hint} Allowed are: {', '.join(_PARAMETERS)}"


# ---- what there is ----


def available_cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its cgroup's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/"))
    return max(1, min(bound, bound if quota is None else math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """The least quota of cores of this process's cgroups; None when there is none.

    Version 2 of the cgroup interface: "cpu.max" holds quota (or "max") and period in us, see the kernel's
    admin-guide/cgroup-v2. Containers see their own cgroup as the root.
    """
    quotas = []
    for group in _cgroups(root):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # none here, or "max"
            continue
    return min(quotas, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folder of this process's cgroup, and those above it."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, path = line.split(":", 2)
        if number == "0":
            group = top / path.lstrip("/")
            yield group
            yield from (folder for folder in group.parents if folder == top or top in folder.parents)


@dataclass(frozen=True)
class Devices:
    """The GPUs that this process may use.

    Attributes:
        variable: The environment variable that says which of them a process sees.
        names: Their names as that variable has them: numbers, or unique ids.
    """

    variable: str = "CUDA_VISIBLE_DEVICES"
    names: tuple[str, ...] = ()

    def environment(self, names: Sequence[str]) -> dict[str, str]:
        """What makes a process see just these."""
        return {self.variable: ",".join(names)}


DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Of NVIDIA's CUDA, AMD's ROCm (HIP numbers the devices that ROCR leaves, so it comes first) and Intel's oneAPI."""


def available_devices(environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> Devices:
    """The GPUs that this process may use.

    Those that the first of `DEVICE_VARIABLES` names that is set, else NVIDIA's as their driver lists them, else AMD's.
    Intel's are not searched for: set ZE_AFFINITY_MASK.

    Args:
        environment: By default this process's.
        root: Of the file system.
    """
    variables = os.environ if environment is None else environment
    for variable in DEVICE_VARIABLES:
        if variable in variables:
            return Devices(variable, _visible(variables[variable]))
    count = _count_nvidia(root)
    if count:
        return Devices("CUDA_VISIBLE_DEVICES", tuple(map(str, range(count))))
    return Devices("ROCR_VISIBLE_DEVICES", tuple(map(str, range(_count_amd(root)))))


def _visible(value: str) -> tuple[str, ...]:
    """The devices that a variable names: a list that ends where the first invalid one stands, -1 by custom."""
    names = []
    for name in value.split(","):
        name = name.strip()  # noqa: PLW2901
        if not name or name.startswith("-") or name == "NoDevFiles":  # what SLURM sets where there are none
            break
        names.append(name)
    return tuple(names)


def _count_nvidia(root: Path) -> int:
    try:
        return len(list((root / "proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        pass
    if root != Path("/"):
        return 0
    try:  # under Windows' Linux the driver shows no files
        listed = run(["nvidia-smi", "-L"], timeout=10)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _count_amd(root: Path) -> int:
    """Counts the nodes of AMD's compute driver that have shaders; processors are nodes too."""
    count = 0
    for properties in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        try:
            lines = properties.read_text().splitlines()
        except OSError:  # a device that this process may not use
            continue
        count += any(line.startswith("simd_count ") and line != "simd_count 0" for line in lines)
    return count


# ---- who gets it ----


@dataclass(frozen=True, eq=False)
class Grant:
    """Cores and devices that belong to a worker until `Ledger.give_back`.

    Attributes:
        resources: What was asked for.
        devices: Names of the devices, those of rank 0 first.
    """

    resources: Resources
    devices: tuple[str, ...] = ()
    _all_devices: Devices = Devices()

    def environment(self, rank: int | None = None) -> dict[str, str]:
        """The variables that make a worker, or one of its ranks, see its devices and no others.

        Empty when the worker asked for none: it sees what the user's own process sees.
        """
        if not self.devices:
            return {}
        each = self.resources.gpus_per_core
        own = self.devices if rank is None else self.devices[rank * each : (rank + 1) * each]
        return self._all_devices.environment(own)


class Ledger(Generic[Ticket]):
    """The free cores and devices of an executor, and the line of those who wait for them. Any thread may use it.

    Args:
        cores: By default those that this process may use.
        devices: By default those that this process may use.
        counts_devices: Whether it gives out devices; not where a scheduler does.

    Examples:
        >>> ledger = Ledger(cores=2, devices=Devices())
        >>> ledger.enqueue("large", Resources(cores=2))
        >>> ticket, grant = ledger.next()
        >>> ticket, ledger.free_cores
        ('large', 0)
        >>> ledger.give_back(grant)
        >>> ledger.free_cores
        2
    """

    def __init__(
        self, cores: int | None = None, devices: Devices | None = None, *, counts_devices: bool = True
    ) -> None:
        self._counts_devices = counts_devices
        self.cores = available_cores() if cores is None else cores
        self._devices = devices
        self._free_cores = self.cores
        self._free_devices: list[str] | None = None if devices is None else list(devices.names)
        # One line for each size: only the first of each can be next, however many wait behind it.
        self._lines: dict[tuple[int, int], deque[tuple[int, Ticket, Resources]]] = {}
        self._arrivals = 0
        self._granted: set[Grant] = set()
        self._passes = 0  # of the ticket that has waited longest
        self._lock = threading.RLock()

    def check(self, resources: Resources) -> None:
        """Raises what is wrong with asking for so much.

        Raises:
            ValueError: It is more than there is, even when all is free.
        """
        if resources.cores > self.cores:
            raise ValueError(f"cores is {resources.cores}; it must be at most {self.cores}, the executor's max_cores")
        if self._gpus(resources) > 0 and resources.gpus > len(self.devices.names):
            raise ValueError(
                f"gpus_per_core is {resources.gpus_per_core} with {resources.cores} cores, {resources.gpus} GPUs "
                f"together; this process may use {len(self.devices.names)} (as {', '.join(DEVICE_VARIABLES)} or the "
                "drivers of NVIDIA and AMD say)"
            )

    @property
    def devices(self) -> Devices:
        """All devices; looked for when somebody first asks for one."""
        with self._lock:
            if self._devices is None:
                self._devices = available_devices()
                self._free_devices = list(self._devices.names)
            return self._devices

    @property
    def free_cores(self) -> int:
        """Cores that nobody has now."""
        return self._free_cores

    def take(self, resources: Resources) -> Grant | None:
        """Cores and devices, at once and past the line; None when not so many are free.

        Raises:
            ValueError: They never will be.
        """
        self.check(resources)
        with self._lock:
            return self._grant(resources) if self._fits(resources.cores, self._gpus(resources)) else None

    def give_back(self, grant: Grant) -> None:
        """Makes what was granted free again. Giving back twice does nothing."""
        with self._lock:
            if grant not in self._granted:
                return
            self._granted.remove(grant)
            self._free_cores += grant.resources.cores
            if grant.devices and self._free_devices is not None:
                self._free_devices += grant.devices
                self._free_devices.sort(key=self.devices.names.index)

    def enqueue(self, ticket: Ticket, resources: Resources) -> None:
        """Puts a ticket, which stands for a call, at the end of the line.

        Raises:
            ValueError: It asks for more than there is.
        """
        self.check(resources)
        with self._lock:
            self._arrivals += 1
            line = self._lines.setdefault((resources.cores, self._gpus(resources)), deque())
            line.append((self._arrivals, ticket, resources))

    def next(self) -> tuple[Ticket, Grant] | None:
        """Takes the next ticket out of the line, with what it asked for; None when none may start now."""
        with self._lock:
            if self._free_cores == 0:
                return None
            size = self._next_size()
            if size is None:
                return None
            _, ticket, resources = self._lines[size].popleft()
            if not self._lines[size]:
                del self._lines[size]
            return ticket, self._grant(resources)

    def _next_size(self) -> tuple[int, int] | None:
        """The size of the ticket that may start now; counts its passing of the one that has waited longest."""
        sizes = sorted(self._lines, key=lambda size: self._lines[size][0][0])
        for size in sizes:
            if not self._fits(*size):
                continue
            if size == sizes[0]:
                self._passes = 0
            elif not self._leaves_enough(size, sizes[0]):
                if self._passes >= PASSES_PER_CORE * self.cores:
                    continue
                self._passes += 1
            return size
        return None

    def _leaves_enough(self, size: tuple[int, int], first: tuple[int, int]) -> bool:
        """Whether a grant of this size takes nothing that the first in line waits for."""
        free = (self._free_cores, len(self._free_devices or ()))
        return all(not mine or have - mine >= its for mine, its, have in zip(size, first, free, strict=True))

    def waiting(self) -> list[Ticket]:
        """The tickets in the line, in the order in which they came."""
        with self._lock:
            entries = [entry for line in self._lines.values() for entry in line]
        return [ticket for _, ticket, _ in sorted(entries, key=lambda entry: entry[0])]

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes a ticket out of the line; False when it is not there any more."""
        with self._lock:
            for size, line in self._lines.items():
                for place, entry in enumerate(line):
                    if entry[1] is ticket:
                        self._passes = 0 if self._is_first(entry) else self._passes
                        del line[place]
                        if not line:
                            del self._lines[size]
                        return True
        return False

    def __len__(self) -> int:
        """Number of tickets in the line."""
        with self._lock:
            return sum(map(len, self._lines.values()))

    def _is_first(self, entry: tuple[int, Ticket, Resources]) -> bool:
        return entry[0] == min(line[0][0] for line in self._lines.values())

    def _fits(self, cores: int, gpus: int) -> bool:
        return cores <= self._free_cores and (not gpus or gpus <= len(self._free_devices or ()))

    def _gpus(self, resources: Resources) -> int:
        """The devices that must be free here for this."""
        return resources.gpus if self._counts_devices else 0

    def _grant(self, resources: Resources) -> Grant:
        names: tuple[str, ...] = ()
        gpus = self._gpus(resources)
        if gpus and self._free_devices is not None:
            names = tuple(self._free_devices[:gpus])
            del self._free_devices[:gpus]
        self._free_cores -= resources.cores
        grant = Grant(resources, names, self._devices or Devices())
        self._granted.add(grant)
        return grant
