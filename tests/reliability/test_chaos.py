"""Runs the chaos test for half a minute; `python -m tests.chaos --seconds 3600` runs it for an hour.

CHAOS_SECONDS is the time for each of the modes: two minutes in all in `.ci/run`, 15 minutes in `make test-long`.
"""

import os
import sys
from pathlib import Path

import pytest

import pympipool
from support.scripts import run_program

SECONDS = int(os.environ.get("CHAOS_SECONDS", "15"))

MODES = {
    "this machine": [],
    "over tcp": ["--over-tcp"],
}


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.mpi
@pytest.mark.parametrize("mode", MODES)
def test_no_blow_loses_calls_or_leaves_anything(mode):
    source = Path(pympipool.__file__).parents[1]
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), *MODES[mode]]
    done = run_program(command, timeout_s=SECONDS + 280, cwd=source)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
