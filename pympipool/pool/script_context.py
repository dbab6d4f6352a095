"""What workers take over from the script besides its environment variables and its folder."""

from __future__ import annotations

import os
import sys
from typing import Any

from pympipool._util.import_path import import_path
from pympipool._util.reprs import summarize_error
from pympipool._util.service_threads import ServiceLogger

LOGGER = ServiceLogger("pympipool.pool")

_LARGEST_OBJECT = 256 * 1024
"""Most bytes of the pickle of an object that a worker looks up: the supervisor sends it in one go."""


def script_context() -> dict[str, Any]:
    """Return what a worker that starts now takes over from this process (see "settings" in docs/design.md)."""
    # Imported here, when the worker's process is already starting, so that it costs no time.
    from multiprocessing.process import current_process

    process = current_process()
    return {
        "argv": [argument for argument in getattr(sys, "argv", ()) if isinstance(argument, str)] or [""],
        "path": import_path(),
        "parent": (process.name, os.getpid()),
        "authkey": bytes(process.authkey),
    }


def pickled_script_object(name: str) -> bytes | None:
    """Return the pickle of an object of the script by its name; None if `__main__` has none, or it cannot be sent."""
    from pympipool.serialization.by_value import dump

    names = vars(sys.modules["__main__"])
    if name not in names:
        return None
    try:
        pickled = dump(names[name])
    except BaseException as error:  # code of the object's class may raise anything
        LOGGER.warning("a worker looks for %s of the script, which cannot be pickled: %s", name, summarize_error(error))
        return None
    if len(pickled) > _LARGEST_OBJECT:
        LOGGER.warning("a worker looks for %s of the script, which refers to %s bytes", name, len(pickled))
        return None
    return pickled
