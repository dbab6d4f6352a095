"""Type checkers, and so editors, know the arguments and results of `submit`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "typed" / "scripts.py"
CHECK_S = 300
"""Time limit of a type checker, which may have to read all of the standard library first."""

MARKED = {number for number, line in enumerate(SCRIPTS.read_text().splitlines(), start=1) if line.endswith("# wrong")}


def lines_with_errors(command, folder):
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CHECK_S, check=False)
    found = re.findall(rf"{SCRIPTS.name}:(\d+)[:\d]* (?:- )?error", run.stdout)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return {int(number) for number in found}, run.stdout


@pytest.mark.timeout(CHECK_S)
def test_mypy_reports_exactly_the_wrong_lines(tmp_path):
    pytest.importorskip("mypy", reason='pip install ".[dev]"')
    options = ["--strict", "--python-version=3.11", "--cache-dir", str(tmp_path), "--config-file="]
    found, output = lines_with_errors([sys.executable, "-m", "mypy", *options, str(SCRIPTS)], ROOT)
    assert found == MARKED, output


@pytest.mark.timeout(CHECK_S)
def test_pyright_reports_exactly_the_wrong_lines():
    if shutil.which("pyright", path=str(Path(sys.executable).parent)) is None:
        pytest.skip('no pyright beside this Python: pip install "pyright[nodejs]"')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(SCRIPTS)]
    found, output = lines_with_errors(command, ROOT)
    assert found == MARKED, output
