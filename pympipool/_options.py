"""The options of `Executor`: each is declared once, with its check.

    Executor(...) ─► Options.from_arguments(locals()) ─┬► a field of `Options`: an option of the executor alone
                                                       └► a field of `Resources`: an option that a call can set too
                                                          (by `resource_dict`)
    Executor.info ◄─ Options.info()

To add an option, edit two places:

1. In executor.py, the signature of `Executor.__init__`, and the Args of the docstring above it.
2. Here, a field of `Options` with its check. If a call can set the option too: a field of `Resources` instead, in
   resources/request.py.

A field with "in_info" appears in `Executor.info`. Everything else follows: the check, the suggestion for a misspelled
name, and the forwarding of `PyMPIExecutor` and its like. A test (tests/executor/test_options.py) compares the
signature, `info`, the docstring and the fields.
"""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ParamSpec, TypeVar

from pympipool._util.reprs import did_you_mean
from pympipool.resources import OF_CALLS, Host, Resources, validation
from pympipool.resources.hosts import checked_hosts
from pympipool.resources.request import translate

P = ParamSpec("P")
T = TypeVar("T")


def positive(name: str, value: Any) -> int:
    """Check a number of workers or cores."""
    if not isinstance(value, bool) and isinstance(value, int) and value <= 0:
        raise ValueError(f"{name} must be greater than 0, not {value}")  # begins as the message of the standard library
    return validation.count(1)(name, value)


def _optional_positive(name: str, value: Any) -> int | None:
    """Check a number of workers or cores; None is allowed."""
    return None if value is None else positive(name, value)


def _restart_or_fail(name: str, value: Any) -> str:
    """Check what follows the end of a worker that had state."""
    if value not in ("restart", "fail"):
        raise ValueError(f"{name} is {value!r}; it must be 'restart' or 'fail'")
    return str(value)


def _arguments(name: str, value: Any) -> tuple[Any, ...]:
    """Check the arguments of a function."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} is {value!r}; it must be a tuple of arguments, such as ({value!r},)")
    return tuple(value)


def _optional_path(name: str, value: Any) -> str | None:
    """Check the path of a directory, which need not exist; None is allowed."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a path")
    if not os.fspath(value):
        raise ValueError(f"{name} is ''; name a directory, or leave it out")
    return os.fspath(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a str")
    return value


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # each function that it makes delays the import
class Options:
    """The options of one executor, checked. `Executor` documents them.

    Attributes:
        resources: The options that a call can set too.
    """

    resources: Resources
    max_workers: int | None = field(metadata={"check": _optional_positive, "in_info": True})
    max_cores: int | None = field(metadata={"check": _optional_positive, "in_info": True})
    cores_per_worker: int = field(metadata={"check": validation.count(1), "in_info": True})
    gpus_per_worker: int = field(metadata={"check": validation.count(0), "in_info": True})
    backend: str = field(metadata={"check": validation.unchecked})  # checked when the backend is chosen
    block_allocation: bool = field(metadata={"check": validation.flag, "in_info": True})
    init_function: Any = field(metadata={"check": validation.unchecked})  # checked by `pickled_init_function`
    initializer: Any = field(metadata={"check": validation.unchecked})  # checked by `pickled_initializer`
    hosts: tuple[Host, ...] | None = field(metadata={"check": checked_hosts, "in_info": True})
    max_tasks_per_child: int | None = field(metadata={"check": _optional_positive, "in_info": True})
    idle_timeout: float | None = field(metadata={"check": validation.optional_seconds, "in_info": True})
    initargs: tuple[Any, ...] = field(metadata={"check": _arguments})
    thread_name_prefix: str = field(metadata={"check": _text})
    share_above: int | None = field(metadata={"check": validation.optional_count, "in_info": True})
    cache_directory: str | None = field(metadata={"check": _optional_path, "in_info": True})
    detached: bool = field(metadata={"check": validation.flag, "in_info": True})
    on_worker_replaced: str = field(metadata={"check": _restart_or_fail, "in_info": True})
    disable_dependencies: bool = field(metadata={"check": validation.flag})
    refresh_rate: float = field(metadata={"check": validation.positive_seconds})
    plot_dependency_graph: bool = field(metadata={"check": validation.flag})
    plot_dependency_graph_filename: Any = field(metadata={"check": validation.unchecked})  # checked by `GraphRecorder`

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Options:
        """Check the options among the local variables of `Executor.__init__`.

        Raises:
            TypeError: An option has a wrong type.
            ValueError: An option is out of range, or two options contradict each other.
        """
        arguments = _with_resource_dict(arguments)
        own = {name: check(name, arguments[name]) for name, check in _CHECKS.items()}
        resources = Resources(
            cores=own["cores_per_worker"],
            gpus_per_core=_gpus_per_core(own["gpus_per_worker"], own["cores_per_worker"]),
            **{name: arguments[name] for name in _SHARED_WITH_CALLS},
        )
        options = cls(resources=resources, **own)
        if options.on_worker_replaced == "fail" and not options.block_allocation:
            raise ValueError(
                "on_worker_replaced='fail' is only for block_allocation=True: without it no worker has state that could be lost"
            )
        if options.idle_timeout is not None and not options.block_allocation:
            raise ValueError(
                f"idle_timeout is {options.idle_timeout:g}, which is only for block_allocation=True: without it each worker ends"
                " after its call"
            )
        if options.idle_timeout is not None and options.on_worker_replaced == "fail":
            raise ValueError(
                "on_worker_replaced='fail' with idle_timeout: workers that end because they are idle lose their state; leave one"
                " of the two"
            )
        if options.draws_graph and options.disable_dependencies:
            raise ValueError(
                "plot_dependency_graph=True with disable_dependencies=True: dependencies are what is drawn; leave one of the two"
            )
        return options

    @property
    def draws_graph(self) -> bool:
        """True if the executor draws the graph of the calls instead of running them."""
        return self.plot_dependency_graph or self.plot_dependency_graph_filename is not None

    def count_workers(self, available_cores: Callable[[], int]) -> tuple[int, int]:
        """Return the numbers of workers and cores.

        Args:
            available_cores: Returns the number of cores to use if the user gave neither max_workers nor max_cores.

        Raises:
            ValueError: The options contradict each other, or there are too few cores for one worker.
        """
        workers, cores, needed = self.max_workers, self.max_cores, self.resources.total_cores
        threads = self.resources.threads_per_core
        if workers is not None and cores is not None and workers * needed != cores:
            and_threads = f" and threads_per_core={threads}" if threads > 1 else ""
            raise ValueError(
                f"max_workers={workers} with cores_per_worker={self.cores_per_worker}{and_threads} is {workers * needed} cores,"
                f" but max_cores is {cores}: give one of the two"
            )
        if workers is not None:
            return workers, workers * needed
        limit = "max_cores" if cores is not None else "the cores that this process may use: give max_cores for more"
        cores = available_cores() if cores is None else cores
        if needed > cores:
            with_threads = f" with threads_per_core={threads}, {needed} cores together" if threads > 1 else ""
            raise ValueError(
                f"cores_per_worker is {self.cores_per_worker}{with_threads}; it must be at most {cores}, {limit}"
            )
        return cores // needed, cores

    def info(self) -> dict[str, Any]:
        """Return the options that `Executor.info` reports."""
        values = {
            one.name: getattr(holder, one.name)
            for holder in (self, self.resources)
            for one in fields(holder)
            if one.metadata.get("in_info")
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    one.name: one.metadata["check"] for one in fields(Options) if one.name != "resources"
}

_OF_CALLS_ONLY = ("cache", "cache_key", "cache_exceptions")
"""Parameters of `Resources` that an executor does not have: it has `cache_directory`."""

_SHARED_WITH_CALLS = [
    one.name for one in fields(Resources) if one.name not in ("cores", "gpus_per_core", *_OF_CALLS_ONLY)
]
"""Options that have the same name in `Executor` and in `Resources`."""

OPTION_NAMES = frozenset({*_CHECKS, *_SHARED_WITH_CALLS, "resource_dict"})


def _with_resource_dict(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with those of a resource_dict as parameters of their own.

    Raises:
        TypeError: The resource_dict is no dict.
        ValueError: It has an unknown key, or an option was given there and as a parameter, with another value.
    """
    resource_dict = arguments["resource_dict"]
    if resource_dict is None:
        return dict(arguments)
    if not isinstance(resource_dict, Mapping):
        raise TypeError(f"resource_dict is {resource_dict!r}; it must be a dict")
    defaults = {one.name: one.default for one in fields(Resources)}
    found = Resources.translated(resource_dict)
    for name in _OF_CALLS_ONLY:
        value = found.pop(name, defaults[name])
        if value != defaults[name]:
            raise ValueError(
                f"the resource_dict of Executor() has {name}={value!r}, which is for single calls: give it to submit()"
            )
    found = _per_worker(found, arguments["cores_per_worker"])
    for name, value in found.items():
        default = {"cores_per_worker": 1, "gpus_per_worker": 0}.get(name, defaults.get(name))
        if arguments[name] not in (default, value):
            raise ValueError(
                f"{name} is {arguments[name]!r}, and resource_dict is {resource_dict!r}: give it in one of the two places"
            )
    return {**arguments, **found}


def _per_worker(found: dict[str, Any], cores_per_worker: Any = 1) -> dict[str, Any]:
    """Return the items of a resource_dict by the names that they have as parameters of an executor."""
    named = {"cores_per_worker" if name == "cores" else name: value for name, value in found.items()}
    if "gpus_per_core" in named:
        cores = Resources.check("cores", named.get("cores_per_worker", cores_per_worker))
        named["gpus_per_worker"] = Resources.check("gpus_per_core", named.pop("gpus_per_core")) * cores
    return named


def as_parameters(resource_dict: Mapping[str, Any], cores: int = 1) -> str:
    """Return what to write in an executor for the items of a valid resource_dict that single calls of it cannot have.

    Args:
        cores: Cores of a worker, if the resource_dict does not name them.

    Examples:
        >>> as_parameters({"cores": 2, "gpus_per_core": 1, "retries": 3})
        'cores_per_worker=2, gpus_per_worker=2'
    """
    found = {name: value for name, value in Resources.translated(resource_dict).items() if name not in OF_CALLS}
    return ", ".join(f"{name}={value!r}" for name, value in _per_worker(found, cores).items())


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among the local variables of an `__init__`, to forward them to `Executor.__init__`."""
    return {name: value for name, value in arguments.items() if name in OPTION_NAMES}


def suggest_parameter(init: Callable[P, T]) -> Callable[P, T]:
    """Return an `__init__` whose error about an unknown parameter suggests the one that is meant.

    That of `Executor` accepts more arguments without their names, as version 0.8 did, with a DeprecationWarning.
    """
    names = [*inspect.signature(init).parameters][1:]
    accepts_former_order = "max_cores" in names

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if "resource_dict" in names and not kwargs.keys() <= set(names):
            kwargs = translate(kwargs, names, f"{type(args[0]).__name__}()")  # type: ignore[assignment]
        for name in kwargs:
            if name not in names:
                kind = type(args[0]).__name__
                meant = _meant_parameter(name, names) or did_you_mean(name, names)
                more = f"{meant} help({kind}) lists all" if meant else f". It has: {', '.join(names)}"
                raise TypeError(f"{kind}() has no parameter {name!r}{more}")
        if accepts_former_order and len(args) > 2:
            from pympipool._util.former_names import name_positional

            args, kwargs = args[:1], name_positional(args[1:], kwargs)  # type: ignore[assignment]
        if accepts_former_order and type(args[0]).__init__ is checked:
            _warn_if_counted_differently(*args[1:], **kwargs)
        return init(*args, **kwargs)

    return checked


def _warn_if_counted_differently(
    max_workers: Any = None,
    *,
    cores_per_worker: Any = 1,
    max_cores: Any = None,
    resource_dict: Any = None,
    **_others: Any,
) -> None:
    """Warn where version 0.8 or executorlib would have started another number of workers."""
    if isinstance(resource_dict, Mapping):
        cores_per_worker = resource_dict.get("cores", cores_per_worker)
    if isinstance(max_workers, int) and isinstance(cores_per_worker, int) and max_cores is None:
        if max_workers > 1 and cores_per_worker > 1:
            from pympipool._util.former_names import warn_of_count

            warn_of_count(max_workers, cores_per_worker)


_FOREIGN_NAMES = {
    **dict.fromkeys(
        ("n_jobs", "n_workers", "num_workers", "processes", "num_processes", "nprocs", "num_cpus"), "max_workers"
    ),
    **dict.fromkeys(("cores", "cores_per_call", "ranks", "num_ranks", "ntasks"), "cores_per_worker"),
    **dict.fromkeys(("threads", "num_threads", "threads_per_worker", "cpus_per_task"), "threads_per_core"),
    **dict.fromkeys(("gpus", "num_gpus", "gpus_per_core", "gpus_per_task"), "gpus_per_worker"),
    **dict.fromkeys(("timeout", "walltime"), "run_time_max"),
    **dict.fromkeys(("nodes", "nnodes", "nodes_per_worker"), "num_nodes"),
    "queue": "partition",
    "project": "account",
    **dict.fromkeys(("working_directory", "workdir", "directory"), "cwd"),
}
"""Parameters of similar classes (of multiprocessing, joblib, dask, ray), and what they are called here."""


def _meant_parameter(name: str, names: list[str]) -> str:
    """Return a suggestion for a parameter that other classes have; "" for others."""
    meant = _FOREIGN_NAMES.get(name)
    return f"; here it is called {meant!r}." if meant in names else ""


def _gpus_per_core(gpus_per_worker: int, cores_per_worker: int) -> int:
    """Return the number of GPUs of each rank."""
    if gpus_per_worker % cores_per_worker:
        raise ValueError(
            f"gpus_per_worker is {gpus_per_worker} with cores_per_worker={cores_per_worker}; it must be a multiple of it, so"
            " that each core has as many"
        )
    return gpus_per_worker // cores_per_worker


def check_devices(gpus_per_worker: int, workers: int, devices: int) -> None:
    """Raise ValueError if the workers that run at the same time need more GPUs than there are."""
    if gpus_per_worker * workers > devices:
        at_a_time = f" for each of max_workers={workers} workers" if workers > 1 else ""
        raise ValueError(
            f"gpus_per_worker is {gpus_per_worker}{at_a_time}; this process may use {devices} GPUs together"
        )


class ExecutorInfo(dict[str, Any]):
    """The dict that `Executor.info` returns. Its former keys still work, with a DeprecationWarning.

    Examples:
        >>> ExecutorInfo(backend="mpi", skipped_backends={})
        {'backend': 'mpi', 'skipped_backends': {}}
    """

    def __missing__(self, key: str) -> Any:
        if key in _REMOVED_KEYS:
            raise KeyError(f"{key}: a key of pympipool 0.8, which info no longer has")
        if key not in _FORMER_KEYS:
            raise KeyError(key)
        return self._former(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in _FORMER_KEYS

    def get(self, key: str, default: Any = None) -> Any:
        if key in _FORMER_KEYS:
            return self._former(key)
        return super().get(key, default)

    def _former(self, key: str) -> Any:
        name, value = _FORMER_KEYS[key]
        warnings.warn(f"info[{key!r}] is now info[{name!r}]", DeprecationWarning, stacklevel=3)
        return value(self)

    def copy(self) -> ExecutorInfo:
        return ExecutorInfo(self)


_FORMER_KEYS: dict[Any, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    "passed_over": ("skipped_backends", lambda info: info["skipped_backends"]),
    "cores": ("cores_per_worker", lambda info: info["cores_per_worker"]),
    "gpus_per_core": ("gpus_per_worker", lambda info: info["gpus_per_worker"] // info["cores_per_worker"]),
}
"""Former keys: the present one, and what the former key returned."""

_REMOVED_KEYS = frozenset({"executor", "init_function", "interface_class"})
