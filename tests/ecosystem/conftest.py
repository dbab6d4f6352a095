"""Executors for packages of others."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def block_allocation():
    """Most of these packages take a second to import: without block allocation, each call would do it again."""
    return True
