from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from pympipool.backends.child_process import ChildProcess
from pympipool.errors import WorkerStartError
from support.processes import is_alive
from support.waiting import wait_until

LIMIT_S = 30.0

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are of Linux")


@pytest.fixture
def start():
    """Starts shell commands as workers."""
    children = []

    def start(script, cwd=None, **environment):
        child = ChildProcess(["/bin/sh", "-c", script], {**os.environ, **environment}, cwd)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait(LIMIT_S)
        child.close()


def read_line(pipe):
    """The next line of a pipe that does not block."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([pipe], [], [], LIMIT_S)[0]
        line += pipe.read(100)
    return line.decode().strip()


def test_the_exit_code_is_told(start):
    child = start("exit 3")
    assert child.wait(LIMIT_S) == 3
    assert child.poll() == 3


def test_the_signal_is_told(start):
    child = start("kill -SEGV $$")
    assert child.wait(LIMIT_S) == -signal.SIGSEGV


def test_a_worker_that_runs_has_no_exit_code(start):
    child = start("sleep 1000")
    assert child.poll() is None
    began = time.monotonic()
    assert child.wait(0.05) is None
    assert time.monotonic() - began > 0.04


@needs_pidfd
def test_the_descriptor_becomes_readable_at_the_end(start):
    child = start("read x", cwd="/")
    child_that_runs = start("sleep 1000")
    assert select.select([child.fileno()], [], [], LIMIT_S)[0]
    assert not select.select([child_that_runs.fileno()], [], [], 0)[0]


def test_without_pidfds_it_is_waited_for_all_the_same(start, monkeypatch):
    monkeypatch.setattr("pympipool.backends.child_process._open_pidfd", lambda pid: None)
    child = start("exit 4")
    assert child.fileno() is None
    assert child.wait(LIMIT_S) == 4
    running = start("sleep 1000")
    assert running.wait(0.05) is None


def test_what_it_prints_can_be_read_without_blocking(start):
    child = start("echo out; echo err >&2; read x; sleep 1000")
    assert read_line(child.stdout) == "out"
    assert read_line(child.stderr) == "err"
    assert child.stdout.read(10) is None
    child.kill()
    assert select.select([child.stdout], [], [], LIMIT_S)[0]
    assert child.stdout.read(10) == b""


def test_it_has_no_input_of_the_users(start):
    child = start("cat; echo end")
    assert read_line(child.stdout) == "end"


def test_it_leads_a_session_of_its_own(start):
    child = start("sleep 1000")
    assert os.getsid(child.pid) == child.pid


def test_it_inherits_no_descriptors(start):
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        child = start("ls /proc/$$/fd | tr '\\n' ' '; echo")
        open_there = read_line(child.stdout).split()
    assert str(ours.fileno()) not in open_there
    assert {"0", "1", "2"} <= set(open_there)


def test_environment_and_folder_are_as_ordered(start, tmp_path):
    child = start('echo "$(pwd) $MADE_UP"', cwd=str(tmp_path), MADE_UP="x y")
    assert read_line(child.stdout) == f"{tmp_path} x y"
    assert child.wait(LIMIT_S) == 0


@pytest.mark.parametrize("leader", ["sleep 1000 & echo $!; wait", "sleep 1000 & echo $!; exit 0"])
def test_killing_ends_what_it_has_started_also_when_it_has_ended_itself(start, leader):
    child = start(leader)
    grandchild = int(read_line(child.stdout))
    if "exit" in leader:
        assert child.wait(LIMIT_S) == 0
    assert is_alive(grandchild)
    child.kill()
    wait_until(lambda: not is_alive(grandchild))
    assert child.wait(LIMIT_S) in (0, -signal.SIGKILL)


def test_terminating_lets_it_end_by_itself(start):
    child = start("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    assert read_line(child.stdout) == "ready"
    child.terminate()
    assert child.wait(LIMIT_S) == 5


def test_its_id_stays_its_own_until_it_is_closed_and_is_never_signalled_afterwards(start, monkeypatch):
    child = start("exit 0")
    assert child.wait(LIMIT_S) == 0
    assert os.path.exists(f"/proc/{child.pid}")
    child.close()
    assert not os.path.exists(f"/proc/{child.pid}")
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a signal for somebody else"))
    child.kill()
    child.terminate()
    assert child.poll() == 0


def test_a_program_that_waits_for_all_of_its_children_does_no_harm(start):
    child = start("exit 6")
    os.waitpid(child.pid, 0)
    assert child.wait(LIMIT_S) is not None
    child.kill()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WorkerStartError, match=r"no such folder") as raised:
        ChildProcess(["/bin/true"], {}, str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in str(raised.value)


def test_a_missing_program_is_named():
    with pytest.raises(WorkerStartError, match="/no/such/program"):
        ChildProcess(["/no/such/program"], {}, None)


def test_an_environment_too_large_for_the_system_is_an_error_of_ours():
    with pytest.raises(WorkerStartError, match="Argument list too long"):
        ChildProcess(["/bin/true"], {"LARGE": "x" * (1 << 20)}, None)


def test_nothing_is_left_open(start):
    before = set(os.listdir("/proc/self/fd"))
    child = start("exit 0")
    child.wait(LIMIT_S)
    child.close()
    child.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_stopped_worker_is_killed_too(start):
    child = start("sleep 1000")
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    assert child.wait(LIMIT_S) == -signal.SIGKILL


def test_ctrl_c_in_the_terminal_does_not_reach_it():
    """A master that is the leader of its group, interrupted together with its whole group."""
    master = (
        "import os, signal, sys, time\n"
        "from pympipool.backends.child_process import ChildProcess\n"
        "child = ChildProcess(['/bin/sleep', '1000'], {}, None)\n"
        "try:\n"
        "    os.killpg(0, signal.SIGINT); time.sleep(1000)\n"
        "except KeyboardInterrupt:\n"
        "    print(child.wait(0.2)); child.kill(); print(child.wait(30)); child.close()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{master}"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        start_new_session=True,
        check=False,
    )
    assert answer.stdout.split() == ["None", "-9"], answer
