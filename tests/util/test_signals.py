"""The signals that other programs start with, and writing to a pipe without a reader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pympipool._util import subprocesses
from pympipool._util.signals import SigpipeBlocked

STATE = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")


def masks(output):
    """Return the sets of blocked and ignored signals."""
    values = [int(line.split()[1], 16) for line in output.splitlines()]
    return [{number for number in range(1, 65) if value >> (number - 1) & 1} for value in values]


@pytest.fixture
def signals_changed():
    """Block most signals and ignore some, as a user's program may do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1])
    ignored = [signal.SIGUSR2, signal.SIGHUP]
    handlers = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    yield
    for number, handler in zip(ignored, handlers, strict=True):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@needs_proc
def test_programs_start_with_clean_signals(signals_changed):
    blocked, ignored = masks(subprocesses.run(STATE).stdout)
    assert blocked == set()
    assert signal.SIGUSR2 not in ignored
    assert signal.SIGHUP in ignored  # nohup
    assert signal.SIGPIPE not in ignored


@needs_proc
def test_own_signals_stay_as_they_are(signals_changed):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    subprocesses.run(STATE)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN


def test_missing_program_is_told_as_ever(signals_changed):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        subprocesses.run(["no-such-program"])


def test_nothing_is_wrapped_without_need(monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda self, command, **_: commands.append(command))
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda self: None)
    subprocesses.Popen(["true"])
    assert commands == [["true"]]


WRITE = """
import os, signal
from pympipool._util.signals import SigpipeBlocked
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
reader, writer = os.pipe()
os.close(reader)
try:
    with SigpipeBlocked():
        os.write(writer, b"x")
except BrokenPipeError:
    print("noticed", signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_pipe_without_reader_ends_nobody():
    done = subprocess.run([sys.executable, "-c", WRITE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "noticed False\n"
    with SigpipeBlocked():
        pass
