"""The jobspec of a worker: how its job is described to flux.

It is made without flux, so that it can be tested without flux.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pympipool.backends.mpi_library import Kind, loaded_library
from pympipool.resources import Resources

_PMI = {Kind.HYDRA: None, Kind.OPEN_MPI: "pmix"}
"""The `pmi` option of flux's shell with which the ranks of a library find each other. None: flux's own choice."""

OF_INSTANCES = {"per-resource": {"type": "node"}, "mpi": "none", "exit-timeout": "none"}
"""Options of flux's shell for a job that is a flux instance: one broker on each node. `flux alloc` sets the same. Agents are such
programs, too: one on each node, none of which ends the others."""


def make_jobspec(
    resources: Resources,
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str],
    cwd: str,
    pmi: str | None = None,
    duration_s: float = 0.0,
    log_file: str | None = None,
) -> dict[str, Any]:
    """Return the jobspec of a worker, version 1 (flux RFC 25).

    Args:
        resources: What the worker needs. Each rank gets a slot with its cores and GPUs.
        command: The worker's program and its arguments.
        name: The name of the job.
        environment: The job's whole environment. Variables that are not UTF-8 are left out, as JSON cannot hold them.
        cwd: The folder that the job runs in.
        pmi: The `pmi` option of flux's shell: how the ranks find each other. None: flux's own choice.
        duration_s: Seconds after which flux ends the job. 0: as flux is configured.
        log_file: Path, without ".out" and ".err", of the files that get the output. None: it goes to the master.

    Examples:
        >>> jobspec = make_jobspec(
        ...     Resources(cores=2, threads_per_core=4), ["hostname"], name="test", environment={}, cwd="/"
        ... )
        >>> jobspec["resources"]
        [{'type': 'slot', 'count': 2, 'with': [{'type': 'core', 'count': 4}], 'label': 'task'}]
    """
    slot = [{"type": "core", "count": resources.threads_per_core}]
    # Without this option its stdin would stay open, and code that reads from it would wait for ever.
    options: dict[str, Any] = {"input": {"stdin": {"type": "file", "path": os.devnull}}}
    if resources.gpus_per_core:
        slot.append({"type": "gpu", "count": resources.gpus_per_core})
        options["gpu-affinity"] = "per-task"
    if resources.cores > 1:
        options["exit-on-error"] = 1
    if pmi is not None:
        options["pmi"] = pmi
    if log_file is not None:
        streams = {"stdout": f"{log_file}.out", "stderr": f"{log_file}.err"}
        options["output"] = {name: {"type": "file", "path": path} for name, path in streams.items()}
    if resources.executor_nesting:
        command = ["flux", "broker", *command]
        options.update(OF_INSTANCES)
    system: dict[str, Any] = {
        "duration": duration_s,
        "cwd": cwd,
        "environment": {key: value for key, value in environment.items() if _is_utf8(key) and _is_utf8(value)},
        "job": {"name": name},
        "shell": {"options": options},
    }
    if resources.partition is not None:
        system["queue"] = resources.partition
    if resources.account is not None:
        system["bank"] = resources.account
    layout, count = _layout(resources, slot)
    return {
        "version": 1,
        "resources": [layout],
        "tasks": [{"command": list(command), "slot": "task", "count": count}],
        "attributes": {"system": system},
    }


def _layout(resources: Resources, slot: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the slots of the ranks, within nodes if the user asks for nodes, and how many tasks there are."""
    slots: dict[str, Any] = {"type": "slot", "count": resources.cores, "with": slot, "label": "task"}
    if resources.num_nodes is None and not resources.exclusive:
        return slots, {"per_slot": 1}
    nodes = resources.num_nodes or 1
    slots["count"] = math.ceil(resources.cores / nodes)  # on each node
    node: dict[str, Any] = {"type": "node", "count": nodes, "with": [slots]}
    if resources.exclusive:
        node["exclusive"] = True
    return node, {"per_slot": 1} if resources.cores % nodes == 0 else {"total": resources.cores}


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def pmi_of(resources: Resources) -> str | None:
    """Return how the ranks of a worker find each other: the user's choice, else the one that the MPI library needs.

    Raises:
        WorkerStartError: For several ranks, mpi4py or an MPI library is missing.
    """
    if resources.pmi_mode is not None or resources.cores == 1:
        return resources.pmi_mode
    return _PMI[loaded_library().kind]
