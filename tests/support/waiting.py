"""Waiting with a time limit for a condition that has no event to wait for."""

from __future__ import annotations

import sys
import threading
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


def main_thread_is_in(function: str, file: str) -> bool:
    """Return True if the main thread runs a function, or one that it has called. To be called by another thread."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_code.co_filename == file:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
