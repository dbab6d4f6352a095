"""`Resources`: what a call or a worker needs. Each parameter is declared, checked and documented here, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pympipool._util.reprs import did_you_mean
from pympipool.resources import validation

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""By which numerical libraries are told how many threads to use (OpenMP, OpenBLAS, MKL, Accelerate, numexpr)."""


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
        pmi_mode: How the ranks of an MPI job find each other, where flux ("simple", "pmix", ...) or SLURM ("pmi2", "pmix", ...)
            starts them. None: what the MPI library that mpi4py loads needs.
        run_time_max: Seconds that the call may run; then it fails with TimeoutError. None: no limit.
        restart_limit: How often a call is tried again whose worker died while it ran.
        connect_timeout: Seconds that a worker may take, from the start of its processes, until it has connected to the
            master. Waiting in a scheduler's queue does not count.
        error_log_file: A file to which each call that raises is appended, by its worker: function, arguments (in a few
            hundred characters each) and traceback. On other hosts it must lie in a shared folder.

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

    cores: int = field(default=1, metadata={"check": validation.count(1)})
    threads_per_core: int = field(default=1, metadata={"check": validation.count(1)})
    gpus_per_core: int = field(default=0, metadata={"check": validation.count(0)})
    oversubscribe: bool = field(default=False, metadata={"check": validation.flag})
    cwd: str | None = field(default=None, metadata={"check": validation.folder})
    executor: Any = field(default=None, metadata={"check": validation.anything})
    hostname_localhost: bool = field(default=False, metadata={"check": validation.optional_flag})
    command_line_argument_lst: tuple[str, ...] = field(default=(), metadata={"check": validation.texts})
    run_time_max: float | None = field(default=None, metadata={"check": validation.seconds_or_none})
    restart_limit: int = field(default=0, metadata={"check": validation.count(0)})
    connect_timeout: float = field(default=60.0, metadata={"check": validation.positive_seconds})
    error_log_file: str | None = field(default=None, metadata={"check": validation.file_to_write})
    pmi_mode: str | None = field(default=None, metadata={"check": validation.optional_name})

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
    hint = did_you_mean(str(key), _PARAMETERS, cutoff=0.5) or "."
    return f"resource_dict has the unknown key {key!r}{hint} Allowed are: {', '.join(_PARAMETERS)}"
