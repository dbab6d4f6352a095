"""Fixtures: the program `pympipool` as a user runs it, also where something is missing or broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import pympipool
from support.scripts import run_program

SOURCE = str(Path(pympipool.__file__).parents[1])


@pytest.fixture
def program(mark, tmp_path_factory):
    """program(argument, ...): runs `python -m pympipool` to its end, in an empty folder.

    Parameters: python, the interpreter; before, called in the child before it becomes the program. All other parameters
        are
    environment variables.
    """

    folder = tmp_path_factory.mktemp("empty")  # python -m searches the current folder for modules first

    def run(*arguments, python=sys.executable, before=None, timeout=150, **variables):
        return run_program(
            [python, "-m", "pympipool", *arguments],
            timeout_s=timeout,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": SOURCE, "COLUMNS": "1000", **variables},
            preexec_fn=before,
        )

    return run


@pytest.fixture(scope="session")
def other_python(tmp_path_factory):
    """An interpreter in an environment without any packages, and so without an mpiexec beside it."""
    folder = tmp_path_factory.mktemp("other") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=50)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def needed_packages(tmp_path_factory):
    """A module search path with pympipool and the packages that it requires."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    return os.pathsep.join([SOURCE, str(folder)])


@pytest.fixture
def programs_called(tmp_path, monkeypatch):
    """programs_called(name=script, ...): puts programs first in PATH that are made of shell scripts."""

    def make(**scripts):
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return make
