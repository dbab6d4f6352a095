from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

import pytest

from pympipool.backends.child_process import ChildProcess
from pympipool.errors import WorkerStartError
from support.processes import is_alive
from support.scripts import run_program
from support.waiting import wait_until

LIMIT_S = 60.0

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfds are of Linux")


@pytest.fixture
def start():
    """Start shell commands as workers."""
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
    """Return the next line of a pipe that does not block."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([pipe], [], [], LIMIT_S)[0]
        line += pipe.read(100)
    return line.decode().strip()


def test_exit_code_is_reported(start):
    child = start("exit 3")
    assert child.wait(LIMIT_S) == 3
    assert child.poll() == 3


def test_signal_is_reported(start):
    child = start("kill -SEGV $$")
    assert child.wait(LIMIT_S) == -signal.SIGSEGV


@pytest.fixture(params=["SIGCHLD is ignored", "the program waits for it"])
def reaped(request):
    """Take the exit codes of all children away, as a user's program may do; return a function that waits until it has."""
    if request.param == "SIGCHLD is ignored":
        former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        yield lambda child: None
        signal.signal(signal.SIGCHLD, former)
    else:
        yield lambda child: os.waitpid(child.pid, 0)


def knows_exit_codes_of_reaped():
    return tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


@needs_pidfd
@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -SEGV $$", -signal.SIGSEGV), ("exit 0", 0)])
def test_exit_code_is_right_although_reaped(start, reaped, script, code):
    child = start(f"sleep 0.2; {script}")
    reaped(child)
    seen = child.wait(LIMIT_S)
    if knows_exit_codes_of_reaped():
        assert (seen, child.exit_status_of(0)) == (code, (0, code))
    else:
        assert (seen is not None, child.exit_status_of(0)) == (True, (0, None))


def test_exit_code_unknown_without_pidfds(start, reaped, monkeypatch):
    monkeypatch.setattr("pympipool._util.exit_codes.open_pidfd", lambda pid: None)
    child = start("sleep 0.2; exit 3")
    reaped(child)
    assert child.wait(LIMIT_S) is not None
    assert child.exit_status_of(0) == (0, None)


def test_descendants_are_killed_although_reaped(start, reaped):
    child = start("sleep 1000 & echo $!; sleep 0.2")
    grandchild = int(read_line(child.stdout))
    reaped(child)
    child.wait(LIMIT_S)
    child.kill()
    wait_until(lambda: not is_alive(grandchild))


def test_running_worker_has_no_exit_code(start):
    child = start("sleep 1000")
    assert child.poll() is None
    began = time.monotonic()
    assert child.wait(0.05) is None
    assert time.monotonic() - began > 0.04


@needs_pidfd
def test_descriptor_becomes_readable_at_the_end(start):
    child = start("read x", cwd="/")
    child_that_runs = start("sleep 1000")
    assert select.select([child.fileno()], [], [], LIMIT_S)[0]
    assert not select.select([child_that_runs.fileno()], [], [], 0)[0]


def test_wait_works_without_pidfds(start, monkeypatch):
    monkeypatch.setattr("pympipool._util.exit_codes.open_pidfd", lambda pid: None)
    child = start("exit 4")
    assert child.fileno() is None
    assert child.wait(LIMIT_S) == 4
    running = start("sleep 1000")
    assert running.wait(0.05) is None


class PidfdQueue:
    """A kqueue as far as it is used, by an epoll of pidfds: both are descriptors that become readable."""

    def __init__(self):
        self.epoll = select.epoll()
        self.fileno, self.pidfds = self.epoll.fileno, []

    def control(self, changes, count):
        assert count == 0
        for pid, kind, flags, notes in changes:
            assert (kind, flags, notes) == ("proc", "add", "exit")
            self.pidfds.append(os.pidfd_open(pid))
            self.epoll.register(self.pidfds[-1], select.EPOLLIN)

    def close(self):
        self.epoll.close()


@needs_pidfd
def test_end_is_noticed_by_a_kqueue(start, monkeypatch):
    queues = []
    names = {"KQ_FILTER_PROC": "proc", "KQ_EV_ADD": "add", "KQ_NOTE_EXIT": "exit", "kevent": lambda *change: change}
    for name, value in names.items():
        monkeypatch.setattr(select, name, value, raising=False)
    monkeypatch.setattr(select, "kqueue", lambda: queues.append(PidfdQueue()) or queues[-1], raising=False)
    with monkeypatch.context() as patch:
        patch.setattr("pympipool._util.exit_codes.IS_LINUX", False)
        child = start("sleep 1000")
    assert select.select([child.fileno()], [], [], 0)[0] == []
    child.kill()
    assert select.select([child.fileno()], [], [], LIMIT_S)[0] == [child.fileno()]
    assert child.wait(LIMIT_S) == -signal.SIGKILL
    for queue in queues:
        for pidfd in queue.pidfds:
            os.close(pidfd)


def test_output_is_read_without_blocking(start):
    child = start("echo out; echo err >&2; read x; sleep 1000")
    assert read_line(child.stdout) == "out"
    assert read_line(child.stderr) == "err"
    assert child.stdout.read(10) is None
    child.kill()
    assert select.select([child.stdout], [], [], LIMIT_S)[0]
    assert child.stdout.read(10) == b""


def test_stdin_is_empty(start):
    child = start("cat; echo end")
    assert read_line(child.stdout) == "end"


def test_child_leads_its_own_session(start):
    child = start("sleep 1000")
    assert os.getsid(child.pid) == child.pid


def test_child_inherits_no_descriptors(start):
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        child = start("ls /proc/$$/fd | tr '\\n' ' '; echo")
        open_there = read_line(child.stdout).split()
    assert str(ours.fileno()) not in open_there
    assert {"0", "1", "2"} <= set(open_there)


def test_environment_and_folder_are_as_requested(start, tmp_path):
    child = start('echo "$(pwd) $MADE_UP"', cwd=str(tmp_path), MADE_UP="x y")
    assert read_line(child.stdout) == f"{tmp_path} x y"
    assert child.wait(LIMIT_S) == 0


@pytest.mark.parametrize("leader", ["sleep 1000 & echo $!; wait", "sleep 1000 & echo $!; exit 0"])
def test_kill_ends_descendants_even_after_the_child(start, leader):
    child = start(leader)
    grandchild = int(read_line(child.stdout))
    if "exit" in leader:
        assert child.wait(LIMIT_S) == 0
    assert is_alive(grandchild)
    child.kill()
    wait_until(lambda: not is_alive(grandchild))
    assert child.wait(LIMIT_S) in (0, -signal.SIGKILL)


def test_terminate_lets_the_child_end_by_itself(start):
    child = start("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    assert read_line(child.stdout) == "ready"
    child.terminate()
    assert child.wait(LIMIT_S) == 5


def test_process_id_is_reserved_until_close(start, monkeypatch):
    child = start("exit 0")
    assert child.wait(LIMIT_S) == 0
    assert os.path.exists(f"/proc/{child.pid}")
    child.close()
    assert not os.path.exists(f"/proc/{child.pid}")
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a signal to another process"))
    child.kill()
    child.terminate()
    assert child.poll() == 0


def test_child_reaped_by_other_code_is_harmless(start):
    child = start("exit 6")
    os.waitpid(child.pid, 0)
    assert child.wait(LIMIT_S) is not None
    child.kill()


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(WorkerStartError, match=r"no such folder") as raised:
        ChildProcess(["/bin/true"], {}, str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in str(raised.value)


def test_missing_program_is_named():
    with pytest.raises(WorkerStartError, match="/no/such/program"):
        ChildProcess(["/no/such/program"], {}, None)


def test_too_large_environment_raises_worker_start_error():
    with pytest.raises(WorkerStartError, match="Argument list too long"):
        ChildProcess(["/bin/true"], {"LARGE": "x" * (1 << 20)}, None)


def test_close_leaves_no_descriptors_open(start):
    before = set(os.listdir("/proc/self/fd"))
    child = start("exit 0")
    child.wait(LIMIT_S)
    child.close()
    child.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_stopped_worker_is_killed(start):
    child = start("sleep 1000")
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    assert child.wait(LIMIT_S) == -signal.SIGKILL


def test_ctrl_c_does_not_reach_the_child():
    """A master leads its process group, and the whole group is interrupted."""
    master = (
        "import os, signal, sys, time\n"
        "from pympipool.backends.child_process import ChildProcess\n"
        "child = ChildProcess(['/bin/sleep', '1000'], {}, None)\n"
        "try:\n"
        "    os.killpg(0, signal.SIGINT); time.sleep(1000)\n"
        "except KeyboardInterrupt:\n"
        "    print(child.wait(0.2)); child.kill(); print(child.wait(30)); child.close()\n"
    )
    answer = run_program(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{master}"],
        timeout_s=LIMIT_S,
        start_new_session=True,
    )
    assert answer.stdout.split() == ["None", "-9"], answer
