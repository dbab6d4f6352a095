"""The first program that a new user runs."""

import re
from pathlib import Path

import pytest

from support.scripts import run_script

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.mark.mpi
def test_quickstart_prints_real_results(tmp_path):
    printed = run_script(QUICKSTART.read_text(), tmp_path)
    assert re.search(r"3\.14159", printed)
    assert "speed-up" in printed
