"""The parameters of `Executor` that concern more than one value: what they say together, and what an error about them says.

What a single value may be is the matter of `pympipool.resources`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import cloudpickle

from pympipool._util.reprs import did_you_mean
from pympipool.errors import SerializationError
from pympipool.resources import Resources

if TYPE_CHECKING:
    from pympipool.backends.base import Backend

P = ParamSpec("P")
T = TypeVar("T")

INIT_FUNCTION_BYTES = 60 << 20
"""Most bytes of a pickled init_function; it travels in a frame of the control connection, with other settings."""


def suggest_parameter(init: Callable[P, T]) -> Callable[P, T]:
    """An `__init__` whose error about an unknown parameter names the one that was probably meant."""
    names = [*inspect.signature(init).parameters][1:]

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in names:
                meant = did_you_mean(name, names) or "."
                kind = type(args[0]).__name__
                raise TypeError(f"{kind}() has no parameter {name!r}{meant} It has: {', '.join(names)}")
        return init(*args, **kwargs)

    return checked


def is_drawn(plot: Any, filename: Any, disable_dependencies: bool) -> bool:
    """Whether calls are drawn instead of run."""
    drawn = bool(Resources.check("oversubscribe", plot, "plot_dependency_graph")) or filename is not None
    if drawn and disable_dependencies:
        raise ValueError(
            "plot_dependency_graph=True with disable_dependencies=True: dependencies are what is drawn; leave one of the two"
        )
    return drawn


def takes_resource_dict(fn: Any) -> bool:
    """Whether a function has a parameter that submit() takes for itself.

    Looks at code objects only: making a signature takes fifty times as long.
    """
    while fn is not None:
        if isinstance(fn, functools.partial):
            if "resource_dict" in fn.keywords:
                return False  # it is given already
            fn = fn.func
        code = getattr(_called(fn), "__code__", None)
        if code is not None and "resource_dict" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            return True
        fn = getattr(fn, "__wrapped__", None)
    return False


def _called(fn: Any) -> Any:
    """The function whose parameters are those of a callable: its own, those of a class, or of an instance's."""
    if isinstance(fn, type):
        return getattr(fn, "__init__", None)
    return fn if hasattr(fn, "__code__") else getattr(type(fn), "__call__", None)  # noqa: B004  its code is wanted


def check_chunksize(chunksize: Any) -> int:
    """A check for the calls of a map that travel together."""
    if not isinstance(chunksize, bool) and isinstance(chunksize, int) and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")  # the standard library's words
    return int(Resources.check("cores", chunksize, "chunksize"))


def gpus_per_core(gpus_per_worker: int, cores_per_worker: int) -> int:
    """The GPUs of each rank of a worker that has so many."""
    gpus = int(Resources.check("gpus_per_core", gpus_per_worker, "gpus_per_worker"))
    if gpus % cores_per_worker:
        raise ValueError(
            f"gpus_per_worker is {gpus} with cores_per_worker={cores_per_worker}; it must be a multiple of it, so that each"
            " core has as many"
        )
    return gpus // cores_per_worker


def check_devices(gpus_per_worker: int, workers: int, devices: int) -> None:
    """Raises when the workers that run at the same time would need more GPUs than there are."""
    if gpus_per_worker * workers > devices:
        at_a_time = f" for each of max_workers={workers} workers" if workers > 1 else ""
        raise ValueError(
            f"gpus_per_worker is {gpus_per_worker}{at_a_time}; this process may use {devices} GPUs together"
        )


def count_workers(max_workers: Any, max_cores: Any, cores_per_worker: int, backend: Backend) -> tuple[int, int]:
    """The numbers of workers and cores that the parameters say together."""
    workers = None if max_workers is None else positive("max_workers", max_workers)
    cores = None if max_cores is None else positive("max_cores", max_cores)
    if workers is not None and cores is not None and workers * cores_per_worker != cores:
        raise ValueError(
            f"max_workers={workers} with cores_per_worker={cores_per_worker} is {workers * cores_per_worker} cores, but"
            f" max_cores is {cores}: give one of the two"
        )
    if workers is not None:
        return workers, workers * cores_per_worker
    said = "max_cores" if cores is not None else "the cores that this process may use: give max_cores for more"
    cores = backend.available_cores() if cores is None else cores
    if cores_per_worker > cores:
        raise ValueError(f"cores_per_worker is {cores_per_worker}; it must be at most {cores}, {said}")
    return cores // cores_per_worker, cores


def positive(name: str, value: Any) -> int:
    """A check for numbers of workers and cores."""
    if not isinstance(value, bool) and isinstance(value, int) and value <= 0:
        raise ValueError(f"{name} must be greater than 0, not {value}")  # begins with the standard library's words
    return int(Resources.check("cores", value, name))


def pickled_init_function(init_function: Any, block_allocation: bool) -> bytes | None:
    """The init_function as workers get it."""
    if init_function is None:
        return None
    if not callable(init_function):
        raise TypeError(f"init_function is {init_function!r}; it must be a function that returns a dict")
    if not block_allocation:
        raise ValueError(
            "init_function is only for block_allocation=True: without it each call has a process of its own, into which"
            " nothing can be loaded before"
        )
    try:
        pickled = bytes(cloudpickle.dumps(init_function))
    except Exception as error:
        raise SerializationError(f"init_function {init_function!r} cannot be pickled: {error}") from error
    if len(pickled) > INIT_FUNCTION_BYTES:
        raise ValueError(
            f"init_function {init_function!r} has {len(pickled)} bytes when pickled, with all it refers to; at most"
            f" {INIT_FUNCTION_BYTES} can be sent: let it load the data itself"
        )
    return pickled
