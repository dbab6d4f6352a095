"""Files of the user that have the names of Python's modules.

    json.py in the script's folder;  import json, in pympipool  ──►  AttributeError: module 'json' has no attribute 'dumps'

The error names neither the file nor the remedy. It is explained when it is raised: such a file does no harm where the module is not
needed.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = ["ShadowingExplained", "shadowing"]

_STANDARD = os.path.dirname(os.__file__) + os.sep


def shadowing(error: BaseException | None) -> str:
    """Return which file has taken the place of a module of Python, and what to do, if that is the reason for an error; else ""."""
    module: Any = None
    if isinstance(error, AttributeError):
        module = error.obj
    elif isinstance(error, ImportError):
        module = sys.modules.get(error.name or "")
    name, path = getattr(module, "__name__", None), getattr(module, "__file__", None)
    if type(name) is not str or type(path) is not str:
        return ""
    if name == "cloudpickle" and not hasattr(module, "__path__"):
        return f"{path!r} has the name of the package cloudpickle, which pympipool needs: rename it"
    if name.partition(".")[0] not in sys.stdlib_module_names:
        return ""
    if path.startswith(_STANDARD) or getattr(sys, "frozen", False):
        return ""
    return f"{path!r} has the name of Python's module {name}, which pympipool needs: rename it"


class ShadowingExplained:
    """A context in which an error that such a file has caused becomes an ImportError that names it."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        problem = shadowing(error)
        if problem:
            raise ImportError(problem) from error
