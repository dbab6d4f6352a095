"""The program `pympipool` itself: which command it runs, and what it says to mistakes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pympipool
from pympipool.cli import COMMANDS, main
from pympipool.diagnostics.tracing.export import write
from pympipool.diagnostics.tracing.timeline import Timeline


def test_help_names_each_command_with_what_it_is_for(program):
    done = program("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 3


def test_without_a_command_it_says_which_there_are(program):
    said = program().stderr
    assert all(f"\n    {name} " in said for name in COMMANDS)


def test_it_tells_its_version(program):
    assert program("--version").stdout.split() == ["pympipool", pympipool.__version__]


@pytest.mark.parametrize(
    "words", [[], ["inof"], ["info", "--jsno"], ["check", "--cores", "0"], ["check", "--limit", "inf"]]
)
def test_what_is_not_understood_is_told_and_nothing_is_done(program, words):
    done = program(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: pympipool" in done.stderr


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_where_there_are_no_other_signs_than_letters_it_uses_letters(program, variables, tmp_path):
    begun = Timeline("2026-01-01T00:00:00.000+00:00", 1500, "host", 1)
    write(begun, tmp_path / "run.json", compressed=False)
    done = program("trace", str(tmp_path / "run.json"), **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1.5 us on 2026-01-01")


def test_without_an_output_nothing_fails(program):
    done = program("info", before=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other(name):
    source = f"""
import sys
from pympipool.cli import COMMANDS, main
try:
    main([{name!r}, "--help"])
except SystemExit as end:
    assert end.code == 0
print("imported", *(name for name in COMMANDS if f"pympipool.cli.{{name}}" in sys.modules))
"""
    printed = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=50, check=True
    ).stdout
    assert printed.splitlines()[-1] == f"imported {name}"


def test_it_can_be_called_from_python(capsys):
    assert main(["info", "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")


def test_a_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m pympipool info | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
