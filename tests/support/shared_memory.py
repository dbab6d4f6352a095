"""Files in /dev/shm, and which of them a test has left behind."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from support.processes import ENDED_S

SHARED_MEMORY = Path("/dev/shm")


def shared_memory_files() -> set[str]:
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def forgotten_shared_memory(before: set[str], timeout_s: float = ENDED_S) -> set[str]:
    """Files in /dev/shm that are new, that no living process maps, and that stay: those of other people come and go."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        new = _without_mapped(shared_memory_files() - before)
        if not new or time.monotonic() > deadline_s:
            return new
        time.sleep(0.05)


def _without_mapped(names: set[str]) -> set[str]:
    if names:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                names = names - {Path(area.path).name for area in process.memory_maps(grouped=True)}
    return names
