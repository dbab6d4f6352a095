"""Shortages of memory at any allocation of the interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def run_without_memory(action: Callable[[], object], first: int, count: int) -> bool:
    """Call action() while some allocations fail, in all threads; return False if it raised MemoryError.

    Args:
        first: Number of allocations before those that fail.
        count: Number of allocations that fail.
    """
    testcapi = pytest.importorskip("_testcapi")
    testcapi.set_nomemory(first, first + count)
    try:
        action()
    except MemoryError:
        return False
    finally:
        testcapi.remove_mem_hooks()
    return True
