"""Runs the chaos test for half a minute; `python -m tests.chaos --seconds 3600` runs it for an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool

SECONDS = int(os.environ.get("CHAOS_SECONDS", "30"))


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.mpi
def test_random_kills_lose_no_call_and_leave_nothing():
    source = Path(pympipool.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS)],
        cwd=source,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS + 220,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
