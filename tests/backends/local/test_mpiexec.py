from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from pympipool.backends.local import job_processes, mpiexec
from pympipool.backends.local.job_processes import ranks_below
from pympipool.backends.local.mpiexec import MpiexecProcess, MpiexecSpawner
from pympipool.backends.mpi_library import Kind
from pympipool.backends.spawner import LaunchRequest
from support.mpi_jobs import files_of, none_exists, rank_pids, shared_files
from support.processes import is_alive
from support.tiny_master import LIMIT_S, TinyMaster
from support.waiting import wait_until

pytestmark = pytest.mark.mpi


@pytest.fixture
def spawner():
    return MpiexecSpawner()


@pytest.fixture
def master(spawner):
    with TinyMaster(spawner, ranks=2).ready() as master:
        yield master


def sockets_of(pid):
    """Return the inodes of the sockets that a process has open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def test_missing_mpi_raises_in_constructor(monkeypatch):
    def missing():
        raise LookupError("no MPI")

    monkeypatch.setattr(mpiexec, "loaded_library", missing)
    with pytest.raises(LookupError):
        MpiexecSpawner()


def test_ranks_see_only_variables_of_the_launcher(master, spawner):
    def environment():
        import os

        return {name: value for name, value in os.environ.items() if "PYMPIPOOL_" in name}

    master.send(environment)
    mine = {name: value for name, value in os.environ.items() if "PYMPIPOOL_" in name}
    assert master.result() == [mine, mine]


def test_kill_ends_ranks_and_leaves_no_files(master):
    pids = rank_pids(master)
    files = files_of(master)
    assert all(map(is_alive, pids))
    master.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert master.process.wait(LIMIT_S) is not None
    assert none_exists(files)


def test_kill_works_while_mpiexec_is_stopped(master):
    os.kill(master.process.pid, signal.SIGSTOP)
    pids = rank_pids(master)
    files = files_of(master)
    master.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert master.process.wait(LIMIT_S) is not None
    assert none_exists(files)


@pytest.mark.parametrize("mpiexec_ends_first", [False, True])
def test_stopped_agents_end_with_their_worker(master, mpiexec_ends_first):
    agents = [child for child in psutil.Process(master.process.pid).children() if child.name() in job_processes._AGENTS]
    if not agents:
        pytest.skip("this mpiexec has no agents: install MPICH, whose mpiexec has (pip install mpich)")
    for rank, pid in enumerate(rank_pids(master)):
        master.process.add_rank(rank, pid)
    for agent in agents:
        agent.suspend()
    if mpiexec_ends_first:
        os.kill(master.process.pid, signal.SIGKILL)
        assert master.process.wait(LIMIT_S) == -signal.SIGKILL
    master.process.kill()
    assert master.process.wait(LIMIT_S) is not None
    wait_until(lambda: not any(is_alive(agent.pid) for agent in agents))


def test_kill_works_twice_and_during_the_start(spawner):
    for pause_s in (0.0, 0.02, 0.1):
        with TinyMaster(spawner, ranks=2) as master:
            time.sleep(pause_s)
            master.process.kill()
            master.process.kill()
            assert master.process.wait(LIMIT_S) is not None


@pytest.mark.parametrize("stops", [False, True], ids=["running", "stopped"])
def test_starting_ranks_without_mpiexec_leave_nothing(spawner, stops):
    with TinyMaster(spawner, ranks=2) as master:
        master.until(lambda: shared_files(ranks_below(master.process.pid)), "the start of MPI")
        ranks = ranks_below(master.process.pid)
        for rank in ranks if stops else ():
            os.kill(rank, signal.SIGSTOP)
        files = shared_files(ranks)
        os.kill(master.process.pid, signal.SIGKILL)
        assert master.process.wait(LIMIT_S) == -signal.SIGKILL
        master.process.kill()
    wait_until(lambda: not any(map(is_alive, ranks)))
    assert none_exists(files)


def test_close_releases_everything_if_no_thread_starts(spawner, monkeypatch):
    def refuse(timer):
        raise RuntimeError("can't start new thread")

    with TinyMaster(spawner, ranks=2).ready() as master:
        for rank, pid in enumerate(rank_pids(master)):
            master.process.add_rank(rank, pid)
        pidfds = [master.process.fileno(), *master.process._agents.values()]
        monkeypatch.setattr(threading.Timer, "start", refuse)
        master.process.kill()
        assert master.process.wait(LIMIT_S) is not None
    for pidfd in pidfds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pidfd)


def test_mpiexec_that_outlives_its_ranks_is_killed(master, monkeypatch):
    monkeypatch.setattr(mpiexec, "CLEANUP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(type(master.process), "terminate", lambda self: None)
    monkeypatch.setattr(mpiexec, "ranks_below", lambda pid: [master.process.pid + 10_000_000])
    master.process.kill()
    assert master.process.wait(LIMIT_S) == -signal.SIGKILL


def test_terminate_ends_all_ranks(master):
    pids = rank_pids(master)
    files = files_of(master)
    master.process.terminate()
    assert master.process.wait(LIMIT_S) is not None
    wait_until(lambda: not any(map(is_alive, pids)))
    assert none_exists(files)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_signal_of_a_rank_is_reported(spawner, number):
    with TinyMaster(spawner, ranks=3).ready() as master:
        pids = rank_pids(master)
        files = files_of(master)
        os.kill(pids[1], number)
        master.wait()
        assert master.process.poll() in (-number, 128 + number)
        assert b"TERMINATION" not in master.output["stdout"]
        wait_until(lambda: not any(map(is_alive, pids)))
        assert none_exists(files)


@pytest.mark.parametrize("code", [3, 9])
def test_exit_code_is_not_mistaken_for_a_signal(spawner, code):
    def end(code):
        import os

        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            os._exit(code)

    with TinyMaster(spawner, ranks=2).ready() as master:
        master.send(end, code)
        master.wait()
        assert master.process.poll() == code


def test_command_lines_hold_no_key(master):
    def command_lines():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found.append(path.read_text(errors="replace"))
            except OSError:
                continue
        return found

    lines = command_lines()
    assert any("mpiexec" in line for line in lines)
    assert not any(master.listener.key in line for line in lines)


def test_ranks_open_no_network_port(master):
    inodes = set()
    for pid in rank_pids(master):
        inodes |= sockets_of(pid) - sockets_of(master.process.pid)  # some MPICHs let ranks inherit the launcher's
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(fields[9])
    assert not inodes & listening


def test_more_ranks_than_cores_are_allowed(spawner):
    ranks = len(os.sched_getaffinity(0)) + 1
    with TinyMaster(spawner, ranks=ranks).ready() as master:
        master.send(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.size)
        assert master.result() == [ranks] * ranks


def test_ranks_are_not_bound_to_cores(spawner):
    with TinyMaster(spawner, ranks=2).ready() as master:
        master.send(lambda: __import__("os").sched_getaffinity(0))
        assert master.result() == [os.sched_getaffinity(0)] * 2


def test_unresolvable_host_name_is_accepted(spawner, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no.such.host.invalid")
    with TinyMaster(spawner, ranks=2).ready() as master:
        assert master.process.host == "no.such.host.invalid"


def test_worker_in_a_worker_is_a_separate_job(master):
    """A rank of an MPI job starts an MPI job, and a worker of one process that uses MPI."""

    def nested():
        from mpi4py import MPI

        from pympipool.backends.local.direct import LocalSpawner
        from pympipool.backends.local.mpiexec import MpiexecSpawner
        from support.tiny_master import TinyMaster

        if MPI.COMM_WORLD.rank:
            return None
        sizes = []
        for spawner, ranks in ((MpiexecSpawner(), 2), (LocalSpawner(), 1)):
            with TinyMaster(spawner, ranks=ranks).ready() as inner:
                inner.send(lambda: __import__("mpi4py.MPI").MPI.COMM_WORLD.size)
                sizes.append(inner.result())
                inner.end()
        return sizes

    master.send(nested)
    assert master.result() == [[[2, 2], 1], None]


def test_request_sets_the_folder(spawner, tmp_path):
    with TinyMaster(spawner, ranks=2, folder=str(tmp_path)).ready() as master:
        master.send(lambda: __import__("os").getcwd())
        assert master.result() == [str(tmp_path)] * 2


def test_missing_folder_raises_at_once(spawner, tmp_path):
    with pytest.raises(Exception, match="no such folder"):
        spawner.start(LaunchRequest(1, 2, {}, str(tmp_path / "missing")))


@pytest.mark.parametrize(
    ("statuses", "lost", "end"),
    [
        ("0,768,9", 1, (1, 3)),
        ("9,768,0", 2, (1, 3)),  # rank 2 was killed because of rank 1, but its connection ended first
        ("9,2304,9", 1, (1, 9)),  # exit code 9, not signal 9
        ("9,11,9", 0, (1, -signal.SIGSEGV)),
        ("9,9,0", 1, (1, -signal.SIGKILL)),
        ("0,9,0", 0, (0, 0)),  # rank 0 ended by itself before its work was done, then rank 1 was killed
    ],
)
def test_exit_status_is_of_first_rank_to_end(statuses, lost, end):
    """mpiexec kills the other ranks and may return the signal of one of them. The statuses are those that it reports then."""
    codes = f"[mpiexec@{socket.gethostname()}] Exit codes: [localhost] {statuses}"
    process = MpiexecProcess(["sh", "-c", f"echo '{codes}'; exit 9"], dict(os.environ), None, Kind.HYDRA)
    try:
        assert process.wait(LIMIT_S) == 9
        while process.stdout.read(1000) != b"":
            pass
        assert process.exit_status_of(lost) == end
    finally:
        process.close()


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ("9,768,9", 3),
        ("9,11,9", -signal.SIGSEGV),
        ("9,9,9", -signal.SIGKILL),
        ("9,0,9", -signal.SIGKILL),
        ("65280,9", 255),
    ],
)
@pytest.mark.parametrize("returned", [255, 9], ids=["Intel MPI", "MPICH"])
def test_exit_code_is_that_of_the_report(statuses, code, returned):
    """mpiexec of Intel MPI returns 255 for all bad ends, that of MPICH may return the signal of a rank that it has killed."""
    codes = f"[mpiexec@{socket.gethostname()}] Exit codes: [localhost:0] {statuses}"
    process = MpiexecProcess(["sh", "-c", f"echo '{codes}'; exit {returned}"], dict(os.environ), None, Kind.HYDRA)
    try:
        assert process.wait(LIMIT_S) == returned
        while process.stdout.read(1000) != b"":
            pass
        assert process.poll() == code
    finally:
        process.close()


def test_without_report_exit_status_is_of_mpiexec():
    process = MpiexecProcess(["sh", "-c", "exit 5"], dict(os.environ), None, Kind.HYDRA)
    try:
        assert process.wait(LIMIT_S) == 5
        assert process.exit_status_of(2) == (2, 5)
    finally:
        process.close()


@pytest.fixture
def family():
    """A process with children and grandchildren, some in sessions of their own, and a child that looks like an agent."""
    script = "sleep 600 & setsid sleep 600 & sh -c 'setsid sleep 600 & sleep 600 & wait' & echo up; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout.readline() == b"up\n"
        family = psutil.Process(parent.pid)
        wait_until(lambda: sorted(child.name() for child in family.children(recursive=True)) == ["sh", *["sleep"] * 4])
        children = family.children(recursive=True)
        yield parent.pid, {child.pid for child in children}
        for process in (family, *children):
            process.kill()


@pytest.mark.parametrize("source", ["children", "all processes", "ps"])
def test_all_descendants_of_mpiexec_are_found(family, monkeypatch, source):
    parent, below = family
    monkeypatch.setattr(os.path, "exists", lambda _path: source == "children")
    if source == "ps":
        monkeypatch.setattr(job_processes, "PROC", Path("/there/is/no/proc"))
    assert set(ranks_below(parent)) == below
    monkeypatch.setattr(job_processes, "_AGENTS", ("sh",))
    assert len(ranks_below(parent)) == 4


def test_unrelated_processes_are_not_read(family, monkeypatch):
    """While other threads keep the interpreter busy, each read takes milliseconds, and there may be thousands of processes."""
    if not os.path.exists("/proc/thread-self/children"):
        pytest.skip("this kernel does not tell the children of a process: CONFIG_PROC_CHILDREN")
    parent, below = family
    paths = []
    read = job_processes._read
    monkeypatch.setattr(job_processes, "_read", lambda path: (paths.append(path), read(path))[1])
    monkeypatch.setattr(Path, "read_text", lambda path: pytest.fail(f"{path} was read"))
    ranks_below(parent)
    assert {int(path.split("/")[2]) for path in paths} == {parent, *below}
