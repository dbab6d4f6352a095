"""Warnings that point at the line of the user's code that has called pympipool, however deep it is."""

from __future__ import annotations

import os
import sys
import warnings

__all__ = ["warn_user"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line on the stack that is not one of pympipool."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
