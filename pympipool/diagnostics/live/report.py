"""The status of an executor as JSON, for viewers in other processes."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

WORKERS_MAX = 500
"""Workers that a report lists at most, those that run a call longest first: it must fit into the buffer of a socket."""

NAME_MAX = 60
"""Characters of a function's name that a report shows at most."""


def report(engine: weakref.ref[Engine], info: Mapping[str, Any]) -> bytes:
    """Return the status of an executor as JSON; b"" if the executor is gone."""
    import json  # here: only viewers need it

    from pympipool.diagnostics.status import snapshot

    found = engine()
    if found is None:
        return b""
    status = snapshot(found, info)
    running = found.dispatcher.running_calls()
    workers: list[dict[str, Any]] = []
    for worker in status.workers:
        name, seconds = running.get(worker.number, (None, 0.0)) if worker.state == "running" else (None, 0.0)
        workers.append(
            {
                "number": worker.number,
                "hosts": worker.hosts,
                "pid": worker.pid,
                "ranks": worker.ranks,
                "state": worker.state,
                "calls": worker.ended,
                "function": name and name[:NAME_MAX],
                "seconds": round(seconds, 3),
            }
        )
    workers.sort(key=lambda worker: -worker["seconds"])
    names = ("backend", "block_allocation", "max_workers", "cores_per_worker")
    answer = {
        "pid": os.getpid(),
        "script": sys.argv[0] if sys.argv else "",
        "executor": {name: info[name] for name in names} | {"state": status.state},
        "calls": {name: getattr(status, name) for name in ("running", "waiting", "done", "failed", "calls_per_s")},
        "shared": status.shared,
        "worker_count": len(workers),
        "workers": workers[:WORKERS_MAX],
    }
    return json.dumps(answer).encode()
