"""Waiting with a time limit for a condition that has no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 60.0
"""Seconds that a condition may take to become true. Only one that never becomes true takes so long."""


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Poll until the condition is true; fail after the time limit."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"still not true after {limit_s:g} s"
        time.sleep(0.01)
