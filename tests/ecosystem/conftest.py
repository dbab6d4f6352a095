"""Executors for third-party packages."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def block_allocation():
    """Use block allocation only.

    Most of these packages take a second to import. Without block allocation, each call would import them again.
    """
    return True
