"""What workers take over from the script besides its environment variables and its folder."""

from __future__ import annotations

import os
import sys
from typing import Any

from pympipool._util.import_path import import_path


def script_surroundings() -> dict[str, Any]:
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
