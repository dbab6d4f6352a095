"""The program `pympipool` as a user runs it, also where something is missing or broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import pympipool

SOURCE = str(Path(pympipool.__file__).parents[1])


@pytest.fixture
def program(mark, tmp_path_factory):
    """program(word, ...): runs `python -m pympipool` to its end, in an empty folder.

    Parameters: python, the interpreter; before, what the child does before it becomes the program; all others are set in its
    environment.
    """

    folder = tmp_path_factory.mktemp("empty")  # python -m looks for modules there first

    def run(*words, python=sys.executable, before=None, timeout=150, **variables):
        return subprocess.run(
            [python, "-m", "pympipool", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": SOURCE, "COLUMNS": "1000", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=before,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def other_python(tmp_path_factory):
    """An interpreter in an environment where nothing is installed, and thus without an mpiexec beside it."""
    folder = tmp_path_factory.mktemp("other") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=50)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def needed_packages(tmp_path_factory):
    """A path for modules on which there is nothing but what pympipool cannot do without."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    return os.pathsep.join([SOURCE, str(folder)])


@pytest.fixture
def programs_called(tmp_path, monkeypatch):
    """Puts programs of these names first in PATH, with what each does in sh."""

    def make(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return make
