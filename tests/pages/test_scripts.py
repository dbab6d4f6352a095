"""Each block of Python in README.md and docs/ runs as a separate script and prints the output shown on the page."""

import doctest
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.page_blocks import Block, all_blocks
from support.scripts import run_script

ANYTHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
"""PATH as if the environment of this Python were activated."""

TIME_LIMITS = re.compile(r"timeout=|run_time_max|cancel_futures")

REMEDIES = {
    "slurm": "needs a job of SLURM: make test-slurm, as root on Debian or Ubuntu",
    "flux": "needs a flux instance: flux start make test PYTEST_ARGS=tests/pages",
}


@functools.cache
def unavailable_reasons(need: str) -> str | None:
    """Return why something that a block needs is unavailable, with the remedy, or None if it is available."""
    match need:
        case "slurm":
            return None if "SLURM_JOB_ID" in os.environ else REMEDIES[need]
        case "flux":
            return None if "FLUX_URI" in os.environ else REMEDIES[need]
        case _:
            return None if importlib.util.find_spec(need) else f"needs {need}: pip install {need}"


def named(block: Block):
    return pytest.param(block, id=block.name)


def marked(block: Block):
    marks = [pytest.mark.mpi] if "mpi" in block.needs else []
    marks += [getattr(pytest.mark, need) for need in block.needs & {"slurm", "flux"}]
    return pytest.param(block, id=block.name, marks=marks)


@pytest.mark.parametrize("block", [*map(marked, all_blocks("python", "{code-cell}"))])
def test_python_block_prints_the_output_shown(block, tmp_path):
    for need in sorted(block.needs - {"mpi"}):
        if unavailable_reasons(need):
            pytest.skip(unavailable_reasons(need))
    check_script(block, tmp_path)


def check_script(block, folder, **variables):
    """Run a block and check its output.

    A block with time limits gets up to three attempts: a busy machine may miss limits of a fraction of a second.
    """
    tries = 3 if TIME_LIMITS.search(block.text) else 1
    for number in range(1, tries + 1):
        (folder / str(number)).mkdir()
        try:
            printed = run_script(block.text, folder / str(number), variables={"PATH": PATH, **variables})
            if block.output is not None:
                assert doctest.OutputChecker().check_output(block.output, printed, ANYTHING), printed
            return
        except AssertionError:
            if number == tries:
                raise


@pytest.mark.parametrize("block", [*map(named, all_blocks("pycon"))])
def test_interactive_session_prints_the_output_shown(block, tmp_path):
    session = tmp_path / "session.txt"
    session.write_text(block.text)
    check = f"import doctest, sys; sys.exit(doctest.testfile(sys.argv[1], False, optionflags={ANYTHING}).failed)"
    printed = run_script("", tmp_path, command=["-c", check, str(session)])
    assert printed == ""


BEGINNERS_BLOCKS = [block for block in all_blocks("python") if block.page.parent.name != "docs"]
"""Blocks of the pages for beginners: README.md, and the folders below docs/."""


@pytest.mark.parametrize("block", [*map(named, BEGINNERS_BLOCKS)])
def test_printing_block_has_an_output_block(block):
    if "print(" in block.text and not block.needs & {"slurm", "flux"}:
        assert block.output is not None, "add an ```output block after it that shows what it prints"


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here: apt-get install bash")
@pytest.mark.parametrize("block", [*map(named, all_blocks("sh", "shell", "bash"))])
def test_shell_has_no_syntax_errors(block):
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
