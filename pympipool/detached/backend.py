"""The backend of an executor whose calls are detached: it checks what is asked for; the engine does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pympipool._util.platform import need_unix
from pympipool._util.reprs import did_you_mean
from pympipool.backends.base import WorkerlessBackend
from pympipool.backends.registry import choose
from pympipool.detached.schedulers import SCHEDULERS, check_resources
from pympipool.resources import available_cores

if TYPE_CHECKING:
    from pympipool._options import Options
    from pympipool.resources import Resources

__all__ = ["DetachedBackend", "choose_scheduler"]

CORES_MAX = 1 << 20
"""The number of cores of a cluster, for an executor that was given no number."""

_NOT_OPTIONS = {
    "block_allocation": "each call is a job of its own: leave it out, and use chunksize of map for short calls",
    "init_function": "each call is a job of its own: do what it does in the function",
    "initializer": "each call is a job of its own: do what it does in the function",
    "max_tasks_per_child": "each call is a job of its own: leave it out",
    "hosts": "submit from one of them, or use backend='slurm'",
    "share_above": "shared data end with the script: leave it out",
}
_NOT_RESOURCES = {
    "executor": "leave it out",
    "restart_limit": "run the script again: what is missing is submitted again",
    "retries": "run the script again: what is missing is submitted again",
    "error_log_file": "`pympipool jobs logs` shows what a job has printed",
    "mp_context": "each job is a fresh interpreter: leave it out",
    "preload": "each job is a fresh interpreter: leave it out",
}
"""Parameters that make no sense for calls that outlive the script, and what there is instead."""


def choose_scheduler(options: Options) -> str:
    """Return the name of the scheduler that the user has chosen; for "auto", SLURM if its controller answers.

    Raises:
        ValueError: There is no such scheduler; or an option is wrong for calls that outlive the script.
    """
    need_unix("detached is True")
    if options.cache_directory is None:
        raise ValueError(
            "detached=True needs a cache_directory, in which the jobs leave their results for later scripts: name one that the"
            " jobs see too"
        )
    _refuse(options, _NOT_OPTIONS)
    name = options.backend
    if name == "auto":
        name = {"mpi": "local"}.get(found := choose("auto").name, found)
    if name not in SCHEDULERS:
        raise ValueError(
            f"backend is {name!r}; with detached=True it can be {', '.join(map(repr, ('auto', *SCHEDULERS)))}"
            f"{did_you_mean(name, SCHEDULERS)}"
        )
    return name


def _refuse(values: Any, instead: dict[str, str]) -> None:
    for name, hint in instead.items():
        value = getattr(values, name)
        if value:
            raise ValueError(f"{name} is {value!r}, and detached=True does not have it: {hint}")


class DetachedBackend(WorkerlessBackend):
    """The backend of an executor whose calls are detached.

    Args:
        name: The name of the scheduler.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.assigns_devices = name != "local"

    def available_cores(self) -> int:
        """Return the number of cores of an executor that was given no number: on a cluster, the scheduler decides."""
        return available_cores() if self.name == "local" else CORES_MAX

    def check(self, resources: Resources) -> None:
        """Raise ValueError for resources that a detached job cannot have."""
        _refuse(resources, _NOT_RESOURCES)
        check_resources(self.name, resources)
