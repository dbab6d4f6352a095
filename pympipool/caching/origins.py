"""Where modules are, without importing them."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING, Any

from pympipool.caching.installed import folders_of

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["exists", "is_of_python", "origin_of"]


def exists(name: str) -> bool:
    """Return True for a module that can be imported, as far as this can be told without doing it."""
    return name.partition(".")[0] in sys.stdlib_module_names or origin_of(name) is not None


def origin_of(name: str) -> str | None:
    """Return the file of a module, "" for a package without one, None if there is no such module."""
    module = sys.modules.get(name)
    if name == "__main__":
        return None
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if spec is None:
        path = None
        parts = name.split(".")
        for depth in range(len(parts)):
            part = ".".join(parts[: depth + 1])
            spec = getattr(sys.modules.get(part), "__spec__", None) or _find_spec(part, path)
            if spec is None:
                return None
            path = getattr(sys.modules.get(part), "__path__", spec.submodule_search_locations)
            if path is None and depth + 1 < len(parts):
                return None
    if spec is None or not spec.has_location:
        return "" if spec is not None and spec.submodule_search_locations is not None else None
    origin = spec.origin or ""
    return os.path.realpath(origin) if origin.endswith((".py", *EXTENSION_SUFFIXES)) else origin


def _find_spec(name: str, path: Any) -> ModuleSpec | None:
    """Return the spec of a module that is not imported; projects that are installed as editable have finders of their own."""
    for finder in sys.meta_path:
        with suppress(Exception):  # they are of any package
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


@functools.cache
def is_of_python(top: str) -> bool:
    """Return True for modules of Python itself, but not for one of the user's that has the name of one of these."""
    if top in sys.builtin_module_names:
        return True
    if top not in sys.stdlib_module_names:
        return False
    origin = origin_of(top)
    return not origin or origin.startswith(folders_of("stdlib", "platstdlib")) or not os.path.isfile(origin)
