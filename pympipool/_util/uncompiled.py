"""The source of pympipool without its compiled modules, which Python imports where the script lies beside it."""

from __future__ import annotations

import os

__all__ = ["why_uncompiled"]

_COMPILED = ("pympipool._core.", "pympipool._util.")
"""Beginnings of the names of compiled modules."""


def why_uncompiled(error: ImportError) -> str:
    """Return what is missing, and what to do, if that is the reason for a failed import; else ""."""
    if not isinstance(error, ModuleNotFoundError) or not (error.name or "").startswith(_COMPILED):
        return ""
    return (
        f"the compiled part of pympipool is missing in {os.path.dirname(os.path.dirname(__file__))}. If that is the source of"
        " pympipool, and it is installed elsewhere: start the script, or Jupyter, in another folder, as Python looks first in"
        " that of the script. Otherwise install it: `pip install --editable .`, or `make install`, in its folder"
    )
