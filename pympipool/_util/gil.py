"""Tells users who do without the GIL that pympipool cannot."""

from __future__ import annotations

import sys
import warnings


def warn_without_gil() -> None:
    """Warn if this Python runs without the GIL: the compiled modules rely on it, and Python takes it unless it is forbidden to."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    if is_enabled is not None and not is_enabled():
        warnings.warn(
            "pympipool needs the GIL, which PYTHON_GIL=0 or -X gil=0 has switched off: threads that use one executor may get"
            " wrong results or crash. Leave that setting out",
            RuntimeWarning,
            stacklevel=2,
        )
