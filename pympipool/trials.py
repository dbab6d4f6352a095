"""What the workers of `pympipool bench` run.

Importable, so that it travels by name; and here, where its import costs a fresh worker next to nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any

STEPS = 1_000_000
"""Of `count_down`: about 20 ms on a machine of 2024."""


def noop(value: Any) -> Any:
    """The value."""
    return value


def spin(seconds: float) -> float:
    """Computes for so long; returns the time that was spent here, in s."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        pass
    return time.perf_counter() - start


def count_down(steps: int) -> None:
    """So much work, whatever time it takes."""
    while steps:
        steps -= 1


def who(seconds: float) -> tuple[str, int]:
    """Host and process that this runs in; busy for a moment, so that other workers get their share."""
    time.sleep(seconds)
    return os.uname().nodename, os.getpid()
