"""Where modules are imported from: in this process, and so in the workers."""

from __future__ import annotations

import os
import sys
from typing import Any

import pympipool


def import_path() -> list[str | bytes]:
    """Return `sys.path` in a form that does not depend on the working directory, each entry once.

    Entries of other types than str and bytes are left out, as `import` ignores them.
    """
    path: list[Any] = list(sys.path)
    entries = [entry for entry in path if isinstance(entry, str | bytes)]
    return list(dict.fromkeys(_absolute(entry) if isinstance(entry, str) else entry for entry in entries))


def package_folder() -> str:
    """Return the folder that contains the package pympipool."""
    return os.path.dirname(os.path.dirname(os.path.abspath(pympipool.__file__)))


def _absolute(entry: str) -> str:
    """Return an entry of `sys.path` in a form that does not depend on the working directory.

    Entries that are no folder or archive are left alone: import hooks put names of their own into `sys.path`. For
    absolute entries the file system is not asked: that would take a while for all entries and every worker.
    """
    if os.path.isabs(entry) or (entry and not os.path.exists(entry)):
        return entry
    try:
        return os.path.join(os.getcwd(), entry) if entry else os.getcwd()
    except FileNotFoundError:  # the working directory was removed
        return entry
