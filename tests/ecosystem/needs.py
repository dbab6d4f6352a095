"""Skips the tests of a package that is not installed."""

from __future__ import annotations

import pytest


def package(name):
    """Return the package of this name, or skip the calling test module if it is not installed."""
    return pytest.importorskip(name, reason=f'{name} is not installed: pip install ".[ecosystem]"')
