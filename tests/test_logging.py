"""Log records about starts and ends of workers: logger `pympipool`, levels INFO and WARNING, no data of the user."""

import logging
import os
import re
import socket
import sys
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from pympipool import Executor
from pympipool._util.service_threads import flush_records
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.worker.rank_runner import RANKS_DIVERGED_REASON
from support.calls import echo, fail, hold, pid
from support.scripts import run_program
from support.waiting import wait_until

SECRET = "the data of the user"


def die(word):
    print(word, file=sys.stderr, flush=True)
    os._exit(3)


def refuse():
    raise ValueError(SECRET)


def leave():
    print(SECRET, file=sys.stderr, flush=True)
    os._exit(4)


def fail_on_one_rank(word):
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 1:
        raise ValueError(word)
    MPI.COMM_WORLD.bcast(word)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, logger="pympipool")
    yield caplog
    assert SECRET not in caplog.text
    assert all(record.name.startswith("pympipool.") for record in caplog.records if record.name != "concurrent.futures")


def messages(log, level=None):
    flush_records()
    records = [record for record in log.records if level is None or record.levelno == level]
    return [
        re.sub(r" on \S+ \(pid \d+\)", " on HOST", re.sub(r"worker \d+", "worker N", r.getMessage())) for r in records
    ]


def test_start_and_end_of_a_worker_are_logged(make_executor, log):
    exe = make_executor()
    assert exe.submit(echo, SECRET).result() == SECRET
    exe.shutdown()
    assert messages(log) == ["worker N starts (ranks: 1)", "worker N is ready on HOST", "worker N ended"]
    assert {record.levelno for record in log.records} == {logging.INFO}


def test_failing_calls_are_not_logged(make_block_executor, log):
    exe = make_block_executor()
    assert exe.submit(fail, SECRET).exception()
    exe.shutdown()
    assert messages(log, logging.WARNING) == []


def test_worker_death_warns_and_restart_is_logged(make_block_executor, log):
    exe = make_block_executor()
    assert isinstance(exe.submit(die, SECRET).exception(), WorkerDied)
    assert exe.submit(echo, 1).result() == 1
    assert messages(log, logging.WARNING) == ["worker N on HOST ended with exit code 3"]
    assert messages(log).count("worker N starts (ranks: 1)") == 2


def test_worker_death_without_block_allocation_warns(opened, log):
    opened.append(exe := Executor(max_workers=1, restart_limit=1))
    assert isinstance(exe.submit(die, SECRET).exception(), WorkerDied)
    assert messages(log, logging.WARNING) == ["worker N on HOST ended with exit code 3"] * 2
    assert messages(log).count("a call is tried again whose worker is gone") == 1


def test_killed_worker_warns(make_block_executor, log):
    exe = make_block_executor()
    psutil.Process(exe.submit(pid).result()).kill()
    wait_until(lambda: messages(log, logging.WARNING))
    assert messages(log, logging.WARNING)[0].startswith("worker N on HOST died of SIGKILL")


@pytest.mark.mpi
def test_replaced_mpi_worker_logs_the_reason(make_block_executor, log):
    exe = make_block_executor(cores_per_worker=2)
    assert isinstance(exe.submit(fail_on_one_rank, SECRET).exception(), ValueError)
    assert exe.submit(echo, 1).result() == [1, 1]
    assert messages(log, logging.WARNING) == [f"worker N ended: {RANKS_DIVERGED_REASON}"]


def test_exceeded_run_time_max_warns(make_executor, gate, log):
    exe = make_executor(run_time_max=0.2)
    assert isinstance(exe.submit(hold, gate.path).exception(), TimeoutError)
    wait_until(lambda: len(messages(log, logging.WARNING)) == 2)
    assert messages(log, logging.WARNING)[0] == "worker N: its call runs longer than run_time_max=0.2 s"
    wait_until(lambda: len(messages(log, logging.WARNING)) == 2)
    assert messages(log, logging.WARNING)[1] == "worker N on HOST was ended: TimeoutError"


@pytest.mark.parametrize("init", [refuse, leave])
def test_failed_starts_are_logged_without_worker_output(make_block_executor, init, log):
    exe = make_block_executor(init_function=init)
    error = exe.submit(echo, 1).exception()
    assert isinstance(error, BrokenProcessPool if init is refuse else WorkerStartError)
    assert SECRET in str(error)  # the user learns of it from the exception
    assert messages(log, logging.ERROR)[0].startswith("no worker can be started: ")


def test_log_is_silent_by_default():
    code = (
        "import logging, os\n"
        "from pympipool import Executor\n"
        "with Executor(max_workers=1, block_allocation=True) as exe:\n"
        "    print(type(exe.submit(os._exit, 3).exception()).__name__, exe.submit(abs, -1).result())\n"
        "print([type(handler).__name__ for handler in logging.getLogger('pympipool').handlers], logging.root.handlers)\n"
    )
    shown = run_program([sys.executable, "-c", code], timeout_s=50)
    assert shown.returncode == 0
    assert shown.stdout == "WorkerDied 1\n['NullHandler'] []\n"
    assert shown.stderr == ""


def test_connection_closed_before_handshake_does_not_warn(make_block_executor, log):
    """A worker that is killed while it starts may have connected already."""
    exe = make_block_executor()
    exe.submit(pow, 2, 3).result()
    address = exe._engine.pool.supervisor.listener.address
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    wait_until(lambda: any("before its hello" in line for line in messages(log, logging.INFO)))
    assert messages(log, logging.WARNING) == []
