"""Names of pympipool 0.8 and before. They work with a DeprecationWarning, or an ImportError says what to write instead.

    import pympipool.mpi.executor ─► found nowhere ─► find_spec ─► a module that knows the names and their successors
    pympipool.PyMPIExecutor       ─► __getattr__   ─► lookup

It is imported only when such a name is used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_EXECUTORS = {
    "PyMPIExecutor": "pympipool.mpi",
    "PyFluxExecutor": "pympipool.flux",
    "PySlurmExecutor": "pympipool.slurm",
}
"""Classes that still exist, and their modules."""

_STEP_EXECUTORS = {
    "PyMPIStepExecutor": ("mpi", ("max_cores", "cores_per_worker", "oversubscribe", "cwd", "hostname_localhost")),
    "PyMPISingleTaskExecutor": ("mpi", ("max_workers", "cores_per_worker", "oversubscribe", "init_function", "cwd")),
    "PyFluxStepExecutor": (
        "flux",
        (
            "max_cores",
            "cores_per_worker",
            "threads_per_core",
            "gpus_per_worker",
            "cwd",
            "executor",
            "hostname_localhost",
        ),
    ),
    "PySlurmStepExecutor": (
        "slurm",
        (
            *("max_cores", "cores_per_worker", "threads_per_core", "gpus_per_worker", "oversubscribe", "cwd"),
            *("hostname_localhost", "command_line_argument_lst"),
        ),
    ),
}
"""Classes without block allocation: their backends, and their parameters in order."""

_SHELL = {"SubprocessExecutor": "pympipool.shell", "ShellExecutor": "pympipool.shell"}

_MODULES: dict[str, tuple[str, ...]] = {
    "pympipool.mpi.executor": ("PyMPIExecutor", "PyMPIStepExecutor", "PyMPISingleTaskExecutor"),
    "pympipool.flux.executor": ("PyFluxExecutor", "PyFluxStepExecutor"),
    "pympipool.slurm.executor": ("PySlurmExecutor", "PySlurmStepExecutor"),
    "pympipool.scheduler": ("create_executor",),
    "pympipool.scheduler.mpi": ("PyMPIExecutor", "PyMPIStepExecutor"),
    "pympipool.scheduler.flux": ("PyFluxExecutor", "PyFluxStepExecutor"),
    "pympipool.scheduler.slurm": ("PySlurmExecutor", "PySlurmStepExecutor"),
    "pympipool.interactive": ("create_executor",),
    "pympipool.interactive.dependencies": ("ExecutorWithDependencies",),
    "pympipool.shell.executor": ("SubprocessExecutor",),
    "pympipool.shell.interactive": ("ShellExecutor",),
    "pympipool.shared": (),
    "pympipool.shared.dependencies": ("ExecutorWithDependencies",),
    "pympipool.shared.executor": ("cloudpickle_register",),
    "pympipool.shared.executorbase": ("cloudpickle_register",),
    "pympipool.interfaces": (),
    "pympipool.interfaces.taskexecutor": ("Executor",),
}
"""Modules, each with its names that still work."""

_REMOVED = {
    "HPCExecutor": "use Executor(max_cores=...), which starts a process for each call",
    "Pool": "use Executor(...).map, or multiprocessing.Pool",
    "MPISpawnPool": "use Executor(cores_per_worker=..., block_allocation=True).map",
    "PoolExecutor": "use Executor(max_workers=..., block_allocation=True)",
    "FileExecutor": "use Executor(cache_directory=...), which keeps results on disk",
    "SocketInterface": "nothing takes its place: messages no longer travel over ZeroMQ",
    "RaisingThread": "use concurrent.futures.ThreadPoolExecutor",
    "cancel_items_in_queue": "use Executor.shutdown(cancel_futures=True)",
}
"""Names that do not work any more, and what to write."""

ROOT = {*_EXECUTORS, *_REMOVED, "create_executor", "ExecutorWithDependencies"}
"""Former names in the root of the package."""

POSITIONAL = (
    *("max_workers", "max_cores", "cores_per_worker", "threads_per_core", "gpus_per_worker", "oversubscribe", "cwd"),
    *("executor", "hostname_localhost", "backend", "block_allocation", "init_function", "command_line_argument_lst"),
    *("disable_dependencies", "refresh_rate"),
)
"""The parameters of `Executor` in the order in which version 0.8 took them without their names."""


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a former module; None if there never was such a module.

    Raises:
        ImportError: The module was internal, or nothing takes its place.
    """
    if name in _MODULES:
        return ModuleSpec(name, _Loader(), is_package=True)  # type: ignore[arg-type]  # it has what the import system needs
    parent = name.split(".")[1]
    if parent in ("shared", "backend", "cache", "scheduler", "interactive", "interfaces", "legacy"):
        raise ImportError(
            f"{name} was a module of pympipool 0.8 and before; nothing takes its place. All that programs need is in pympipool:"
            " from pympipool import Executor",
            name=name,
        )
    return None


class _Loader:
    """Makes the former modules."""

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let the import system make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Have its names looked up when they are used."""
        known = _MODULES[module.__name__]

        def look_up(name: str) -> Any:
            if name in known or name in _REMOVED:
                return lookup(module.__name__, name)
            if name.startswith("_"):  # programs probe for such names
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            raise ImportError(
                f"{module.__name__}.{name}: if pympipool 0.8 had it, it was internal, and nothing takes its place. All that"
                " programs need is in pympipool: from pympipool import Executor",
                name=module.__name__,
            )

        module.__getattr__ = look_up  # type: ignore[method-assign]


def lookup(module: str, name: str) -> Any:
    """Return what a former name stands for, with a DeprecationWarning.

    Args:
        module: The module that had the name.

    Raises:
        ImportError: It works no more.
    """
    if name in _REMOVED:
        raise ImportError(f"{module}.{name} was removed: {_REMOVED[name]}", name=module)
    if name in _STEP_EXECUTORS:
        backend, parameters = _STEP_EXECUTORS[name]
        _warn(f"{module}.{name}", f"Executor(..., backend={backend!r})")
        return _positional_executor(name, parameters, backend)
    if name == "cloudpickle_register":
        _warn(f"{module}.{name}", "cloudpickle.register_pickle_by_value(module)")
        return _register_caller
    successor = {**_EXECUTORS, **_SHELL}.get(name)
    if successor is None:
        _warn(f"{module}.{name}", "pympipool.Executor")
        return import_module("pympipool.executor").Executor
    public = successor if name in _EXECUTORS else "pympipool"
    _warn(f"{module}.{name}", f"{public}.{name}")
    return getattr(import_module(successor), name)


def name_positional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Executor` by name. More than one of them was given without its name, as version 0.8 allowed.

    Raises:
        TypeError: There are too many, or one was given by name as well.
    """
    if len(args) > len(POSITIONAL):
        raise TypeError(
            f"Executor() takes at most {len(POSITIONAL)} arguments without their names, but got {len(args)}"
        )
    named = dict(zip(POSITIONAL, args, strict=False))
    for name in named:
        if name in kwargs:
            raise TypeError(f"Executor() got several values for {name!r}")
    given = ", ".join(f"{name}={value!r}" for name, value in named.items())
    warnings.warn(f"give the parameters of Executor by name: Executor({given})", DeprecationWarning, stacklevel=3)
    return {**named, **kwargs}


def warn_of_count(workers: int, cores_per_worker: int) -> None:
    """Warn that version 0.8 would have started fewer workers, at the call of the caller's caller."""
    cores = workers * cores_per_worker
    warnings.warn(
        f"max_workers={workers} with cores_per_worker={cores_per_worker} is {workers} workers on {cores} cores together. If you"
        f" mean that, write max_cores={cores} instead; if you mean {workers} cores together, max_cores={workers}. In pympipool"
        " 0.8 max_workers was the number of cores",
        FutureWarning,
        stacklevel=4,
    )


def _positional_executor(name: str, parameters: tuple[str, ...], backend: str) -> Callable[..., Any]:
    executor = import_module("pympipool.executor").Executor

    def make(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(parameters):
            raise TypeError(f"{name}() takes at most {len(parameters)} arguments, but got {len(args)}")
        return executor(**dict(zip(parameters, args, strict=False)), **kwargs, backend=backend)

    make.__name__ = make.__qualname__ = name
    return make


def _register_caller(ind: int = 2) -> None:
    """Have the module of a caller, `ind` frames above, pickled by value."""
    import cloudpickle

    frame = sys._getframe(1)
    for _ in range(ind - 1):
        frame = frame.f_back or frame
    module = sys.modules.get(frame.f_globals["__name__"])
    if module is not None and module.__name__ != "__main__":
        cloudpickle.register_pickle_by_value(module)


def _warn(former: str, name: str) -> None:
    warnings.warn(f"{former} is a name of pympipool 0.8; write {name}", DeprecationWarning, stacklevel=4)
