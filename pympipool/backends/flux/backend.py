"""Backend "flux": workers are jobs of the flux instance that the script runs in, or can reach."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pympipool.backends.base import PROBE_TIMEOUT_S, SchedulerBackend
from pympipool.backends.flux import availability

if TYPE_CHECKING:
    from pympipool.backends.spawner import Spawner
    from pympipool.resources import Resources

URGENCY_MAX = 31
"""The largest urgency of a job of flux."""


class FluxBackend(SchedulerBackend):
    """Workers that flux starts as jobs of the instance that the script runs in, or can reach.

    Raises:
        WorkerStartError: flux cannot be used here.
    """

    name = "flux"

    def __init__(self) -> None:
        from pympipool.backends.flux.spawner import FluxSession

        self._size = availability.size_of_instance()
        super().__init__()
        self._session = FluxSession()
        self._has_other_hosts = not availability.is_on_one_host()

    def available_cores(self) -> int:
        """Return the number of cores of the instance."""
        return self._size.cores

    def check(self, resources: Resources) -> None:
        """Raise ValueError for parameters that flux does not have.

        Raises:
            TypeError: resources.executor is not a FluxExecutor.
        """
        if resources.executor is not None:
            check_executor(resources.executor)
        check_resources(resources)

    def _make_spawner(self, resources: Resources) -> Spawner:
        from pympipool.backends.flux.spawner import FluxSpawner

        relay = self._relay_for(resources) if self._has_other_hosts else None
        return FluxSpawner(resources, self._session, relay, self._size.durations)

    def close(self) -> None:
        """End the relay, the job reaper and the connection to flux."""
        super().close()
        self._session.close()

    def after_fork_in_child(self) -> None:
        """Close the connections to the relay and the job reaper in a forked child."""
        super().after_fork_in_child()
        self._session.after_fork_in_child()


def check_resources(resources: Resources) -> None:
    """Raise ValueError for what jobs of flux do not have."""
    resources.check_backend("flux")
    if resources.priority is not None and resources.priority > URGENCY_MAX:
        raise ValueError(
            f"priority is {resources.priority}; with flux it is the urgency of a job, at most {URGENCY_MAX}"
        )
    if resources.executor_nesting and resources.cores > 1:
        raise ValueError(
            f"executor_nesting is True with {resources.cores} cores; a worker with a flux instance of its own is one process:"
            " use cores=1, and threads_per_core for the cores of its instance"
        )


def check_executor(executor: Any) -> None:
    """Raise TypeError if executor is not a `flux.job.FluxExecutor`. Does not import flux."""
    classes = type(executor).__mro__
    if not any(one.__name__ == "FluxExecutor" and one.__module__.partition(".")[0] == "flux" for one in classes):
        raise TypeError(f"executor is {executor!r}; it must be a flux.job.FluxExecutor")


def unavailable_reason() -> str | None:
    """Return why "auto" cannot use flux here, or None if it can."""
    return availability.unavailable_reason(
        availability.BROKER_TIMEOUT_S if "FLUX_URI" in os.environ else PROBE_TIMEOUT_S
    )
