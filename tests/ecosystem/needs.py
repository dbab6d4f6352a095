"""Which of these packages are here."""

from __future__ import annotations

import pytest


def package(name):
    """The package of this name; without it the module of tests is skipped."""
    return pytest.importorskip(name, reason=f'{name} is not here: pip install "pympipool[ecosystem]"')
