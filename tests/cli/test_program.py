"""The program `pympipool` itself: its commands, help, and errors for wrong arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pympipool
from pympipool.cli import COMMANDS, main
from pympipool.diagnostics.tracing.export import write
from pympipool.diagnostics.tracing.timeline import Timeline


def test_help_describes_each_command(program):
    done = program("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 3


def test_program_without_command_lists_commands(program):
    output = program().stderr
    assert all(f"\n    {name} " in output for name in COMMANDS)


def test_version_is_printed(program):
    assert program("--version").stdout.split() == ["pympipool", pympipool.__version__]


@pytest.mark.parametrize(
    "arguments", [[], ["inof"], ["info", "--jsno"], ["check", "--cores", "0"], ["check", "--limit", "inf"]]
)
def test_wrong_arguments_print_usage(program, arguments):
    done = program(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: pympipool" in done.stderr


@pytest.mark.parametrize(
    ("command", "meant"), [("tpo", "; did you mean 'top'?"), ("zzz", "; there are: info, check, bench")]
)
def test_unknown_command_suggests_another(program, command, meant):
    assert f"there is no command {command!r}{meant}" in program(command).stderr


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_ascii_output_replaces_other_characters(program, variables, tmp_path):
    timeline = Timeline("2026-01-01T00:00:00.000+00:00", 1500, "host", 1)
    write(timeline, tmp_path / "run.json", compressed=False)
    done = program("trace", str(tmp_path / "run.json"), **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1.5 us on 2026-01-01")


def test_closed_stdout_is_no_error(program):
    done = program("info", before=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_imports_no_other_command(name):
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


def test_main_can_be_called_from_python(capsys):
    assert main(["info", "--json"]) == 0
    assert capsys.readouterr().out.startswith("{")


def test_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m pympipool info | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
