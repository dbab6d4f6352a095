"""Notice modules that were edited and reloaded, and send what they define by value from then on.

A worker that has imported a module keeps it as it was. When the master reloads the module after an edit, a function that
is pickled by its name would run in its old version there. `importlib.reload`, and with it the autoreload of IPython,
gives a module a new spec, which this module compares. A reload without an edit changes nothing.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import cloudpickle

SPECS: dict[str, Any] = {}
"""The spec of each module that was pickled by reference. A reload that changes nothing gives it a new one."""

SPAWNED_SCRIPT = "__mp_main__"
"""What multiprocessing calls the script's module in its processes that are no forks of the script."""

_versions: dict[str, tuple[int, int] | None] = {}
"""The version of the file of each of these modules, at the time when that was done first."""


def notice_reload(name: Any) -> bool:
    """Have cloudpickle pickle a module by value if it was edited and reloaded after it was first pickled by reference.

    The same holds for the script in a process that multiprocessing has started afresh: there its functions have the module
    `SPAWNED_SCRIPT`, which no worker can import.

    Args:
        name: The name of the module.

    Returns:
        True if the module is pickled by value for one of these reasons.
    """
    module = sys.modules.get(name) if isinstance(name, str) else None
    if name == SPAWNED_SCRIPT and module is not None:
        cloudpickle.register_pickle_by_value(module)
        return True
    spec = getattr(module, "__spec__", None)
    if spec is None or name == "__main__":
        return False
    if SPECS.get(name) is spec:
        return False
    version = _version_of(spec)
    if _versions.setdefault(name, version) == version:
        SPECS[name] = spec
        return False
    if name not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(module)
    return True


def _version_of(spec: Any) -> tuple[int, int] | None:
    """Return time of change and size of the source file of a module; None if it has none."""
    if not getattr(spec, "has_location", False):
        return None
    try:
        status = os.stat(spec.origin)
    except (OSError, TypeError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size
