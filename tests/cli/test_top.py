"""`pympipool top` shows what executors of running scripts do."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from pympipool import Executor
from support.waiting import LIMIT_S, wait_until

pytest.importorskip("rich", reason="the tables need rich: pip install rich")


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
    top = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(terminal)
    try:
        read_until(master, "simulate")
        busy.submit(abs, 1)
        read_until(master, "1 waiting")
        os.write(master, b"q")
        assert top.wait(LIMIT_S) == 0
    finally:
        top.kill()
        top.wait()
        os.close(master)


def read_until(terminal, text):
    """Read what a program writes to a terminal until the text is there."""
    seen, deadline_s = "", time.monotonic() + LIMIT_S
    while text not in seen:
        assert time.monotonic() < deadline_s, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
