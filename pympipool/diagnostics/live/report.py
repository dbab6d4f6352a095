"""The status of an executor for viewers: as a dict, and as JSON for those in other processes."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pympipool._util.platform import HAS_PROC

if TYPE_CHECKING:
    from pympipool.caching.calls import CacheCounts, CachedCalls
    from pympipool.execution.engine import Engine

WORKERS_MAX = 500
"""Workers that a report lists at most, those that run a call longest first: it must fit into the buffer of a socket."""

NAME_MAX = 60
"""Characters of a function's name that a report shows at most."""


def live_status(
    engine: weakref.ref[Engine], info: Mapping[str, Any], cache: CacheCounts | None
) -> dict[str, Any] | None:
    """Return the status of an executor; None if the executor is gone."""
    from pympipool.diagnostics.status import snapshot

    found = engine()
    if found is None:
        return None
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
    path = sys.argv[0] if sys.argv else ""
    names = ("backend", "block_allocation", "max_workers", "cores_per_worker")
    calls = {name: getattr(status, name) for name in ("running", "waiting", "done", "failed", "calls_per_s")}
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "script": path,
        "title": script_title(path),
        "executor": {name: info[name] for name in names} | {"state": status.state},
        "calls": calls | {"blocked": found.blocked_count()},
        "cache": cache and {"found": cache.found, "missing": cache.missing},
        "shared": status.shared,
        "worker_count": len(workers),
        "workers": workers[:WORKERS_MAX],
    }


def script_title(path: str) -> str:
    """Return the name of a script for its path.

    Examples:
        >>> script_title("/home/me/sweep.py"), script_title("/env/pytest/__main__.py"), script_title("-c"), script_title("")
        ('sweep.py', 'python -m pytest', 'python -c', 'interactive session')
    """
    file = Path(path)
    if file.name == "__main__.py":
        return f"python -m {file.parent.name}"
    return {"": "interactive session", "-c": "python -c", "-": "python -"}.get(path, file.name)


def show_status(
    engine: Engine, info: Mapping[str, Any], cache: CachedCalls | None
) -> Callable[[], dict[str, Any] | None]:
    """Let viewers in other processes see the status of an executor; return the function that makes it, for those in this one."""
    status = partial(live_status, weakref.ref(engine), info, None if cache is None else cache.counts)
    engine.pool.show(partial(report, status))
    return status


def report(status: Callable[[], dict[str, Any] | None]) -> bytes:
    """Return what `live_status` returns as JSON; b"" for None."""
    import json  # here: only viewers need it

    found = status()
    return b"" if found is None else json.dumps(found).encode()


def add_memory(status: dict[str, Any]) -> dict[str, Any]:
    """Add the resident memory of rank 0 to each worker of a status, and return the status.

    It is read by the viewer, not by the script: in bytes, None for workers on other hosts and for those that have ended.
    """
    here = socket.gethostname()
    for worker in status["workers"]:
        is_here = worker["pid"] and list(worker["hosts"][:1]) == [here]
        worker["memory_bytes"] = _resident_bytes(worker["pid"]) if is_here else None
    return status


def _resident_bytes(pid: int) -> int | None:
    if not HAS_PROC:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
