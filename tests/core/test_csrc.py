"""Runs the tests of the C core, which are C programs: see `tests/csrc/Makefile`.

Its target `ci` has the long tests: ten million records, the thread sanitizer, more fuzzing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "csrc"

NOT_OURS = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""Variables through which a make that runs pytest would affect the make of these tests."""

pytestmark = pytest.mark.slow


def make(*arguments: str, limit_s: float) -> str:
    """Run make in `tests/csrc/` and return its output, or fail with that.

    Every process that it started ends with it, also after the time limit.
    """
    for tool in ("make", os.environ.get("CC", "cc")):
        assert shutil.which(tool), f"the C core cannot be tested without {tool}: apt-get install gcc make"
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    process = subprocess.Popen(
        ["make", "--no-print-directory", *arguments],
        cwd=FOLDER,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, f"make {' '.join(arguments)} failed:\n{output[-5000:]}"
    return output


@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", ["plain", "portable", "asan"])
def test_c_tests_pass(variant):
    output = make(variant, limit_s=580)
    skipped = [line for line in output.splitlines() if " ... skipped: " in line]
    if skipped:
        pytest.skip(f"all passed but: {'; '.join(skipped)}")


@pytest.mark.timeout(300)
def test_corrupt_rings_do_no_harm():
    make("fuzz", "FUZZ_S=2", limit_s=280)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed: apt-get install spin")
def test_models_hold_and_mutants_break():
    make("model", limit_s=580)


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not Path("/usr/include/relacy").exists(), reason="relacy is not installed: apt-get install relacy-dev"
)
def test_models_hold_under_relaxed_memory():
    make("relaxed", "EXECUTIONS=5000", limit_s=580)
