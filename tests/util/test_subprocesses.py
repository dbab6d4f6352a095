from __future__ import annotations

import contextlib
import subprocess
import threading

import psutil
import pytest

from pympipool._util import subprocesses
from support.interrupts import interrupted_everywhere
from support.waiting import wait_until


def sleepers():
    """Return our children that sleep."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "61" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def test_interrupted_run_ends_its_program():
    def run():
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocesses.run(["sleep", "61"], timeout=0.1)

    places = list(interrupted_everywhere(run))
    assert any(place.startswith("run (") for place in places)
    wait_until(lambda: not sleepers())
    wait_until(lambda: "pympipool_program" not in [thread.name for thread in threading.enumerate()])


def test_failure_of_program_is_raised():
    with pytest.raises(FileNotFoundError):
        subprocesses.run(["/no/such/program"])
    with pytest.raises(subprocess.TimeoutExpired):
        subprocesses.run(["sleep", "61"], timeout=0.01)
