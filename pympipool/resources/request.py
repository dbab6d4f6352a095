"""`Resources`: what a call or a worker needs. Each parameter is declared, checked and documented once, here."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
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
"""The variables that set the number of threads of numerical libraries (OpenMP, OpenBLAS, MKL, Accelerate, numexpr)."""

DURATION_MARGIN_S = 60.0
"""Seconds that a scheduler is asked for in addition to `run_time_max` and the time to connect, so that a call which takes too long
ends by `run_time_max`, with its error."""


@dataclass(frozen=True)
class Resources:
    """The needs of a call, or of each worker of an executor. Its parameters are also the keys of `resource_dict`.

    A wrong value raises at once, and the error names the parameter, its value and what is allowed.

    Args:
        cores: MPI ranks that run the call together, each on its own core. With 2 or more the result is the list of what
            the ranks returned, unless `result_of` says otherwise.
        result_of: "all": with 2 or more cores, the result is the list of what the ranks returned, in rank order. "root": it
            is what rank 0 returned; what the others return is not sent, and need not be picklable.
        threads_per_core: Cores of each rank: so many threads do numerical libraries use in it (see `threads_environment`), or
            so many processes may it start.
        gpus_per_core: GPUs for each rank. With 0, a rank sees the GPUs that the user's environment makes visible.
        oversubscribe: Allow MPI to start more ranks than it finds cores. pympipool counts cores in the same way as
            without it.
        cwd: Working directory, which must exist. None: the master's.
        executor: The `flux.job.FluxExecutor` to submit to. Only with flux.
        hostname_localhost: Workers connect to "localhost" instead of the host's name, which may not resolve on macOS.
        command_line_argument_lst: Further arguments for `srun`, or for ssh. Only with SLURM and ssh.
        pmi_mode: How the ranks of an MPI job find each other, where flux ("simple", "pmix", ...) or SLURM ("pmi2",
            "pmix", ...) starts them. None: what the MPI library that mpi4py loads needs.
        num_nodes: Number of nodes that the ranks are spread over, at least one rank on each. Only with SLURM and flux.
        exclusive: Have whole nodes, which nothing else uses meanwhile: `num_nodes`, by default one with flux and inside a job
            of SLURM. Only with SLURM and flux.
        priority: The priority of the worker's job in the queue; 1 or more, where larger numbers start earlier. With flux the
            urgency, up to 31, of which 16 is the default. With SLURM only outside of a job, for its operators.
        partition: The partition of the worker's job, or its queue with flux. With SLURM only outside of a job.
        account: The account that the worker's job is charged to, or the bank with flux. With SLURM only outside of a job.
        step: Have a step of SLURM, or a job of flux, for the worker, where an agent would start it: so the scheduler counts
            its cores, and SLURM limits and accounts its memory by itself. It takes up to a tenth of a second more. Without
            effect where each worker is a job or a step anyway. Only with SLURM and flux.
        time_limit: Seconds after which the scheduler ends the worker, whatever it does. None: with `run_time_max`, and
            a worker for each call, that and the time to start; else the scheduler's default. Only with SLURM and flux.
        submission_template: The script of the call's job, or its path; `{{command}}` stands for what it runs. Only with
            detached=True and SLURM.
        flux_log_files: Write the worker's output to the files flux_N.out and flux_N.err in its working directory, where N is
            its number, instead of to the script's output. Only with flux.
        executor_nesting: Start a flux instance for the worker, which has the worker's cores and GPUs. The jobs of the calls, and
            of the executors in them, are those of this instance. Only with flux, and with one rank.
        run_time_max: Seconds that the call may run before it fails with TimeoutError. None: no limit.
        restart_limit: Number of retries of a call whose worker dies while the call runs.
        retries: Number of times that the call is tried again when it has failed with one of `retry_on`. Deaths of workers count
            for `restart_limit` instead.
        retry_on: The exception types after which the call is tried again, one or a tuple; also those of which it raises a
            subclass.
        retry_delay: Seconds between a failure and the next attempt. Meanwhile the call has neither worker nor cores.
        connect_timeout: Seconds that a worker may take, from the start of its processes, until it has connected to the
            master. Time in a scheduler's queue does not count.
        preload: Names of modules that calls need, such as ("numpy", "ase"). They are imported once, in the process that forks
            workers for single calls, and need not be imported by each call. None: pympipool learns them from the first
            calls: those modules of Python and of installed packages that are safe to fork with. (): none.
        cache: Look for the result in the `cache_directory` of the executor, and keep it there. Without effect if there is none.
        cache_key: A name for the call in the cache, in place of the key that is made of function and arguments: whatever
            was returned under this name is the result.
        cache_exceptions: If the call raises an exception, keep that in the cache, too: the call does not run again.
        error_log_file: A file to which workers append each call that raises: function, arguments (a few hundred
            characters of each) and traceback. For workers on other hosts it must be in a shared folder.
        mp_context: How the process of a worker on this machine, in a job, or on `hosts` starts: "spawn" (a fresh interpreter),
            "forkserver" or "fork" (a fork of a fresh interpreter), or a context of multiprocessing. None: as
            PYMPIPOOL_START_METHOD says.

    Raises:
        TypeError: A value has a wrong type.
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
    threads_per_core: int = field(default=1, metadata={"check": validation.count(1), "in_info": True})
    gpus_per_core: int = field(default=0, metadata={"check": validation.count(0)})
    oversubscribe: bool = field(default=False, metadata={"check": validation.flag, "in_info": True})
    cwd: str | None = field(default=None, metadata={"check": validation.existing_folder, "in_info": True})
    executor: Any = field(default=None, metadata={"check": validation.unchecked})
    hostname_localhost: bool = field(default=False, metadata={"check": validation.optional_flag, "in_info": True})
    command_line_argument_lst: tuple[str, ...] = field(
        default=(), metadata={"check": validation.string_tuple, "in_info": True}
    )
    run_time_max: float | None = field(default=None, metadata={"check": validation.optional_seconds, "in_info": True})
    restart_limit: int = field(default=0, metadata={"check": validation.count(0), "in_info": True})
    retries: int = field(default=0, metadata={"check": validation.count(0), "in_info": True, "of_calls": True})
    retry_on: tuple[type[BaseException], ...] = field(
        default=(Exception,), metadata={"check": validation.exception_types, "of_calls": True}
    )
    retry_delay: float = field(
        default=0.0, metadata={"check": validation.seconds_or_zero, "in_info": True, "of_calls": True}
    )
    cache: bool = field(default=True, metadata={"check": validation.flag, "of_calls": True})
    cache_key: str | None = field(default=None, metadata={"check": validation.optional_text, "of_calls": True})
    cache_exceptions: bool = field(default=False, metadata={"check": validation.flag, "of_calls": True})
    connect_timeout: float = field(default=60.0, metadata={"check": validation.positive_seconds})
    error_log_file: str | None = field(default=None, metadata={"check": validation.writable_file})
    result_of: str = field(default="all", metadata={"check": validation.one_of("all", "root"), "in_info": True})
    preload: tuple[str, ...] | None = field(default=None, metadata={"check": validation.module_names, "in_info": True})
    pmi_mode: str | None = field(default=None, metadata={"check": validation.optional_name("pmix")})
    mp_context: Any = field(default=None, metadata={"check": validation.optional_start_method, "in_info": True})
    num_nodes: int | None = field(default=None, metadata={"check": validation.optional_count})
    exclusive: bool = field(default=False, metadata={"check": validation.optional_flag})
    priority: int | None = field(default=None, metadata={"check": validation.optional_count})
    partition: str | None = field(default=None, metadata={"check": validation.optional_name("debug")})
    account: str | None = field(default=None, metadata={"check": validation.optional_name("physics")})
    step: bool = field(default=False, metadata={"check": validation.flag})
    time_limit: float | None = field(default=None, metadata={"check": validation.optional_seconds})
    submission_template: str | None = field(default=None, metadata={"check": validation.optional_text})
    flux_log_files: bool = field(default=False, metadata={"check": validation.optional_flag})
    executor_nesting: bool = field(default=False, metadata={"check": validation.optional_flag})

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value is not default:  # which has the right form
                object.__setattr__(self, name, self.check(name, value))

    @staticmethod
    def check(parameter: str, value: Any, name: str = "") -> Any:
        """Check a value for a parameter, and return it in the form in which it is kept.

        Args:
            parameter: One of the parameters of this class.
            value: The value that the user gave.
            name: The name by which the user knows the parameter, if it is another one, such as the executor's
                `cores_per_worker`.

        Examples:
            >>> Resources.check("cores", True, "cores_per_worker")
            Traceback (most recent call last):
                ...
            TypeError: cores_per_worker is True; it must be an integer, not a bool
        """
        return _PARAMETERS[parameter](name or parameter, value)

    @classmethod
    def from_dict(cls, resource_dict: Mapping[str, Any] | None, default: Resources | None = None) -> Resources:
        """Return the resources of a call.

        Args:
            resource_dict: Parameters of this class that the call sets itself.
            default: The resources of the executor, which provide all other parameters.

        Raises:
            TypeError: resource_dict is not a dict, or a value has a wrong type.
            ValueError: There is no such parameter, or a value is out of range.

        Examples:
            >>> Resources.from_dict({"cores": 2}, Resources(threads_per_core=4)).threads_per_core
            4
            >>> Resources.from_dict({"core": 2})  # doctest: +ELLIPSIS
            Traceback (most recent call last):
                ...
            ValueError: resource_dict has the unknown key 'core'; did you mean 'cores'? help(...) lists all
        """
        default = cls() if default is None else default
        if resource_dict is None:
            return default
        if not isinstance(resource_dict, Mapping):
            raise TypeError(f"resource_dict is {resource_dict!r}; it must be a dict")
        if not resource_dict:
            return default
        own = copy(default)
        for name, value in cls.translated(resource_dict).items():
            object.__setattr__(own, name, cls.check(name, value))
        return own

    @staticmethod
    def translated(resource_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters in a resource_dict by their names here (see `translate`).

        Raises:
            ValueError: There is no such parameter.
        """
        parameters = translate(resource_dict, _PARAMETERS, "resource_dict")
        for key in parameters:
            if key not in _PARAMETERS:
                raise ValueError(_unknown_key(key))
        return parameters

    def check_backend(self, backend: str) -> None:
        """Raise ValueError for a parameter that a backend does not have, and for more nodes than ranks.

        Examples:
            >>> Resources(partition="debug").check_backend("mpi")
            Traceback (most recent call last):
                ...
            ValueError: partition is 'debug'; backend 'mpi' takes none, only 'slurm' and 'flux' do: leave it out
        """
        for name, (only, hint) in _ONLY.items():
            value = getattr(self, name)
            if backend in only or value == _DEFAULTS[name]:
                continue
            others = f", only {' and '.join(map(repr, only))} do{'es' if len(only) == 1 else ''}" if only else ""
            value = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"{name} is {value!r}; backend {backend!r} takes none{others}: {hint}")
        if self.num_nodes is not None and self.num_nodes > self.cores:
            raise ValueError(
                f"num_nodes is {self.num_nodes} with {self.cores} core{'s' * (self.cores > 1)}; each node needs at least one rank:"
                " use more cores, or fewer nodes"
            )

    @property
    def needs_scheduler(self) -> bool:
        """True if a scheduler itself must start the worker: parameters are set that it would not have from an agent.

        Examples:
            >>> Resources(step=True).needs_scheduler, Resources(gpus_per_core=1).needs_scheduler
            (True, False)
        """
        return any(getattr(self, name) != _DEFAULTS[name] for name in _ONLY)

    @property
    def total_cores(self) -> int:
        """The number of cores of all ranks together, by which an executor counts: a core for each thread."""
        return self.cores * self.threads_per_core

    @property
    def call_duration_s(self) -> float | None:
        """Seconds that a scheduler is asked for, for a worker that serves one call. None: as long as its rules allow."""
        if self.time_limit is not None or self.run_time_max is None:
            return self.time_limit
        return self.connect_timeout + self.run_time_max + DURATION_MARGIN_S

    @property
    def gpus(self) -> int:
        """The number of GPUs of all ranks together."""
        return self.cores * self.gpus_per_core

    def threads_environment(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables with which libraries in a worker use `threads_per_core` threads.

        Variables that the user has set are left alone.

        Args:
            environment: The environment that the worker inherits. Default: that of this process.

        Examples:
            >>> Resources(threads_per_core=2).threads_environment({"OMP_NUM_THREADS": "8"})["MKL_NUM_THREADS"]
            '2'
        """
        inherited = os.environ if environment is None else environment
        return {name: str(self.threads_per_core) for name in THREAD_VARIABLES if name not in inherited}


_ONLY: dict[str, tuple[tuple[str, ...], str]] = {
    "oversubscribe": (
        ("mpi", "slurm", "local"),
        "flux gives each core to one rank at a time; leave it False, or use fewer cores",
    ),
    "executor": (("flux",), "it is for a flux.job.FluxExecutor"),
    "command_line_argument_lst": (("slurm", "ssh"), "it is for SLURM's srun, and for ssh"),
    "pmi_mode": (("slurm", "flux"), "ranks are started by the mpiexec of their MPI library, which needs none"),
    "num_nodes": (("slurm", "flux"), "there is no choice of nodes; leave it out"),
    "exclusive": (("slurm", "flux"), "leave it out; with max_workers=1 one call runs at a time"),
    "priority": (("slurm", "flux"), "calls start in the order in which they are submitted; leave it out"),
    "partition": (("slurm", "flux"), "leave it out"),
    "account": (("slurm", "flux"), "leave it out"),
    "step": (("slurm", "flux"), "there are no steps; leave it out"),
    "time_limit": (("slurm", "flux"), "use run_time_max, which limits each call on every backend"),
    "submission_template": (
        ("detached",),
        "srun or flux starts workers without a script; with detached=True each call is a job with one",
    ),
    "flux_log_files": (("flux",), "what workers print arrives in the script; leave it out"),
    "executor_nesting": (("flux",), "a call that needs flux can start its own instance, by `flux start`; leave it out"),
}
"""Parameters that not all backends have: the backends that have it, and a hint for users of the others."""

_DEFAULTS: dict[str, Any] = {one.name: one.default for one in fields(Resources)}

OF_CALLS = frozenset(one.name for one in fields(Resources) if one.metadata.get("of_calls"))
"""Parameters that do not concern the worker: with block allocation too, each call can have its own."""

_PARAMETERS: dict[str, Callable[[str, Any], Any]] = {one.name: one.metadata["check"] for one in fields(Resources)}


_ALIASES = {
    "openmpi_oversubscribe": "oversubscribe",
    "slurm_cmd_args": "command_line_argument_lst",
    "flux_executor": "executor",
    "flux_executor_pmi_mode": "pmi_mode",
    "flux_executor_nesting": "executor_nesting",
}
"""Parameters of executorlib that have other names here."""

_NO_TEMPLATES = (
    "srun or flux starts workers without a submission script; with detached=True there is submission_template"
)
_NOT_HERE: dict[str, tuple[Any, str]] = {
    "cache_directory": (None, "it is a parameter of Executor(), for all of its calls"),
    "cache_key": (None, "submit() takes it, in the resource_dict of one call"),
    "export_workflow_filename": (None, "plot_dependency_graph_filename draws the graph of the calls"),
    "log_obj_size": (False, "pympipool.trace() records what calls take"),
    "wait": (True, "shutdown(wait=False) does not wait for the calls"),
    "pysqa_config_directory": (None, _NO_TEMPLATES),
}
"""Parameters of executorlib that do not exist here: the value that asks for nothing, and what there is instead."""


def translate(arguments: Mapping[str, Any], known: Container[str], place: str) -> dict[str, Any]:
    """Return arguments with the names that they have here. What executorlib calls differently is translated.

    A parameter of executorlib that does not exist here is dropped if its value asks for nothing.

    Args:
        arguments: By name. Unknown names are left alone.
        known: The names that exist here.
        place: Where the arguments were given, for messages.

    Raises:
        ValueError: A parameter does not exist here, or was given by both names.

    Examples:
        >>> translate({"slurm_cmd_args": ["--mem=0"], "cache_directory": None}, (), "Executor()")
        {'command_line_argument_lst': ['--mem=0']}
    """
    translated: dict[str, Any] = {}
    for given, value in arguments.items():
        name = given if given in known else _ALIASES.get(given, given)
        if name != given and name in arguments:
            raise ValueError(f"{place} has {given!r} and {name!r}, which are the same: leave one of the two")
        if given not in known and given in _NOT_HERE:
            nothing, instead = _NOT_HERE[given]
            if value is not None and value != nothing:
                raise ValueError(
                    f"{place} has {given}={value!r}, a parameter of executorlib that does not exist here: {instead}"
                )
        else:
            translated[name] = value
    return translated


def _unknown_key(key: Any) -> str:
    meant = did_you_mean(str(key), _PARAMETERS, cutoff=0.5)
    more = (
        f"{meant} help(pympipool.resources.Resources) lists all"
        if meant
        else f". Allowed are: {', '.join(_PARAMETERS)}"
    )
    return f"resource_dict has the unknown key {key!r}{more}"
