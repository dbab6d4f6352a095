"""The lives of workers in the log: under `pympipool`, at INFO and WARNING, without a word of the data."""

import logging
import os
import re
import socket
import subprocess
import sys

import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.worker.mpi import RANKS_DIVERGED_REASON
from support.calls import echo, fail, hold, pid
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


def told(log, level=None):
    records = [record for record in log.records if level is None or record.levelno == level]
    return [
        re.sub(r" on \S+ \(pid \d+\)", " on HOST", re.sub(r"worker \d+", "worker N", r.getMessage())) for r in records
    ]


def test_the_life_of_a_worker_is_told(make_executor, log):
    exe = make_executor()
    assert exe.submit(echo, SECRET).result() == SECRET
    exe.shutdown()
    assert told(log) == ["worker N starts (ranks: 1)", "worker N is ready on HOST", "worker N ended"]
    assert {record.levelno for record in log.records} == {logging.INFO}


def test_calls_that_fail_are_the_users_matter(make_block_executor, log):
    exe = make_block_executor()
    assert exe.submit(fail, SECRET).exception()
    exe.shutdown()
    assert told(log, logging.WARNING) == []


def test_a_death_is_a_warning_and_the_restart_is_told(make_block_executor, log):
    exe = make_block_executor()
    assert isinstance(exe.submit(die, SECRET).exception(), WorkerDied)
    assert exe.submit(echo, 1).result() == 1
    assert told(log, logging.WARNING) == ["worker N on HOST ended with exit code 3"]
    assert told(log).count("worker N starts (ranks: 1)") == 2


def test_a_death_without_block_allocation_is_a_warning(opened, log):
    opened.append(exe := Executor(max_workers=1, restart_limit=1))
    assert isinstance(exe.submit(die, SECRET).exception(), WorkerDied)
    assert told(log, logging.WARNING) == ["worker N on HOST ended with exit code 3"] * 2
    assert told(log).count("a call is tried again whose worker is gone") == 1


def test_a_worker_that_is_killed_is_a_warning(make_block_executor, log):
    exe = make_block_executor()
    psutil.Process(exe.submit(pid).result()).kill()
    wait_until(lambda: told(log, logging.WARNING))
    assert told(log, logging.WARNING)[0].startswith("worker N on HOST died of SIGKILL")


@pytest.mark.mpi
def test_a_worker_of_several_ranks_that_replaces_itself_says_why(make_block_executor, log):
    exe = make_block_executor(cores_per_worker=2)
    assert isinstance(exe.submit(fail_on_one_rank, SECRET).exception(), ValueError)
    assert exe.submit(echo, 1).result() == [1, 1]
    assert told(log, logging.WARNING) == [f"worker N ended: {RANKS_DIVERGED_REASON}"]


def test_a_call_that_takes_too_long_is_a_warning(make_executor, gate, log):
    exe = make_executor(run_time_max=0.2)
    assert isinstance(exe.submit(hold, gate.path).exception(), TimeoutError)
    wait_until(lambda: len(told(log, logging.WARNING)) == 2)
    assert told(log, logging.WARNING)[0] == "worker N: its call runs longer than run_time_max=0.2 s"
    wait_until(lambda: len(told(log, logging.WARNING)) == 2)
    assert told(log, logging.WARNING)[1] == "worker N on HOST was ended: TimeoutError"


@pytest.mark.parametrize("init", [refuse, leave])
def test_workers_that_cannot_start_are_told_without_what_they_said(make_block_executor, init, log):
    exe = make_block_executor(init_function=init)
    error = exe.submit(echo, 1).exception()
    assert isinstance(error, ValueError if init is refuse else WorkerStartError)
    assert SECRET in str(error)  # the user is told
    assert told(log, logging.ERROR)[0].startswith("no worker can be started: ")


def test_nothing_is_shown_where_nobody_asks():
    code = (
        "import logging, os\n"
        "from pympipool import Executor\n"
        "with Executor(max_workers=1, block_allocation=True) as exe:\n"
        "    print(type(exe.submit(os._exit, 3).exception()).__name__, exe.submit(abs, -1).result())\n"
        "print([type(handler).__name__ for handler in logging.getLogger('pympipool').handlers], logging.root.handlers)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert shown.stdout == "WorkerDied 1\n['NullHandler'] []\n"
    assert shown.stderr == ""


def test_a_connection_that_ends_without_a_word_alarms_nobody(make_block_executor, log):
    """A worker that is ended while it starts may just have connected."""
    exe = make_block_executor()
    exe.submit(pow, 2, 3).result()
    address = exe._engine.pool.supervisor.listener.address
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    wait_until(lambda: any("before its hello" in line for line in told(log, logging.INFO)))
    assert told(log, logging.WARNING) == []
