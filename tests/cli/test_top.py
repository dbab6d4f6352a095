"""`pympipool top` shows what executors of running scripts do."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from pympipool import Executor
from pympipool.cli import top
from pympipool.diagnostics.live.scripts import find_scripts
from support.waiting import LIMIT_S, wait_until

pytest.importorskip("rich.console", reason="the tables need rich: pip install rich")

from rich.console import Console


def simulate(path):
    while not path.exists():
        time.sleep(0.01)


@pytest.fixture
def busy(tmp_path):
    """An executor of this process whose worker runs simulate()."""
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        call = exe.submit(simulate, tmp_path / "end")
        wait_until(call.running, LIMIT_S)
        yield exe
        (tmp_path / "end").touch()


def test_once(program, busy):
    done = program("top", "--once", str(os.getpid()))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"process {os.getpid()}" in done.stdout
    assert "1 running, 0 waiting" in done.stdout
    assert "simulate" in done.stdout
    assert str(busy.info["workers"][0]["pid"]) in done.stdout


def test_narrow_terminal_shows_what_matters_most(busy):
    console = Console(width=50, file=io.StringIO())
    console.print(top._draw(find_scripts(os.getpid()), None, console))
    lines = console.file.getvalue().splitlines()
    heads = next(line.split() for line in lines if "function" in line)
    assert heads == ["host", "memory", "function", "for"]
    assert any(re.search(r"MB +simulate +\d.*(s|min)$", line) for line in lines)


def test_answers_of_the_cache(program, tmp_path):
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path, backend="mpi") as exe:
        for _ in range(3):
            exe.submit(abs, -1).result()
        assert "cache: 2 found, 1 missing" in " ".join(program("top", "--once", str(os.getpid())).stdout.split())


def test_status_of_another_version_is_shown(monkeypatch, busy):
    (script,) = find_scripts(os.getpid())
    del script.executors[0]["cache"]
    console = Console(width=100, file=io.StringIO())
    console.print(top._draw([script], None, console))
    assert "1 running" in console.file.getvalue()


def test_json(program, busy):
    done = program("top", "--json", str(os.getpid()))
    (script,) = json.loads(done.stdout)
    assert done.returncode == 0
    assert script["executors"][0]["workers"][0]["function"] == "simulate"


def test_process_without_executors(program):
    done = program("top", "--once", str(os.getppid()))
    assert done.returncode == 1
    assert f"Process {os.getppid()} runs no executor" in done.stdout


def test_without_rich(program, needed_packages, other_python):
    done = program("top", "--once", python=other_python, PYTHONPATH=needed_packages)
    assert done.returncode == 2
    assert "pip install rich" in done.stderr


def test_terminal_shows_changes_until_q_is_pressed(busy):
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "pympipool", "top", "--interval", "0.1", str(os.getpid())]
    viewer = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(terminal)
    try:
        read_until(master, "simulate")
        busy.submit(abs, 1)
        read_until(master, "1 waiting")
        os.write(master, b"q")
        assert viewer.wait(LIMIT_S) == 0
    finally:
        viewer.kill()
        viewer.wait()
        os.close(master)


def read_until(terminal, text):
    """Read what a program writes to a terminal until the text is there."""
    seen, deadline_s = "", time.monotonic() + LIMIT_S
    while text not in seen:
        assert time.monotonic() < deadline_s, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
