"""The process of a worker on Windows."""

import os
import sys

import pytest

pytest.importorskip("_winapi", reason="only for Windows: make test-windows runs it under Wine")

from pympipool.backends.local.process_windows import WindowsProcess
from support.waiting import wait_until

SHOW = "import os, sys; print(os.getpid(), sys.executable, sys.prefix, sep='\\n')"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A virtual environment that this process belongs to. Its program is not there."""
    home = tmp_path / "environment"
    program = home / "Scripts" / "python.exe"
    program.parent.mkdir(parents=True)
    (home / "pyvenv.cfg").write_text(f"home = {os.path.dirname(sys.executable)}\n")
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    monkeypatch.setattr(sys, "prefix", str(home))
    monkeypatch.setattr(sys, "executable", str(program))
    return home


def run(command):
    """Run a command; return its process id, and what it has printed."""
    process = WindowsProcess(command, os.environ, None, lambda function: function())
    try:
        wait_until(lambda: process.poll() is not None)
        return process.pid, b"".join(iter(process.stdout.read, b"")).decode().split("\r\n")
    finally:
        process.close()


def test_worker_of_an_environment_is_no_launcher(environment):
    pid, (own_pid, executable, prefix, _) = run([sys.executable, "-c", SHOW])
    assert int(own_pid) == pid
    assert os.path.normcase(executable) == os.path.normcase(environment / "Scripts" / "python.exe")
    assert os.path.normcase(prefix) == os.path.normcase(environment)


def test_other_programs_are_started_as_they_are(environment):
    pid, (own_pid, executable, _, _) = run([sys._base_executable, "-c", SHOW])
    assert int(own_pid) == pid
    assert os.path.normcase(executable) == os.path.normcase(sys._base_executable)
