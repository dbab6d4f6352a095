"""The records of jobs are truncated, overwritten, or those of another version: nothing waits for ever."""

import os
import sqlite3

import pytest

from pympipool import Executor
from pympipool.cli import main
from pympipool.detached import records_file
from support.calls import square
from support.made_up_scheduler import submit

TIMEOUT_S = 60

DAMAGED = r"is damaged \(.*\): remove it"


@pytest.fixture
def path(tmp_path):
    """The file of the records."""
    return tmp_path / "cache" / "detached" / "jobs.sqlite"


def overwrite(path):
    with sqlite3.connect(path) as connection:  # a change: no process uses what it has in memory
        connection.executescript("CREATE TABLE other (x); PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with open(path, "r+b") as file:
        file.write(b"garbage " * (os.path.getsize(path) // 8))


def empty(path):
    with sqlite3.connect(path) as connection:
        for name in ("calls", "needs", "submissions", "tasks"):
            connection.execute(f"DROP TABLE {name}")
    connection.close()


@pytest.mark.parametrize("damage", [overwrite, empty])
def test_calls_fail_if_the_records_are_damaged(exe, scheduler, path, damage):
    first = submit(exe, scheduler, square, 3)
    damage(path)
    for call in (exe.submit(square, 4), first):
        with pytest.raises(Exception, match=DAMAGED):
            call.result(TIMEOUT_S)


def open_executor(path):
    return Executor(backend="slurm", cache_directory=path.parents[1], detached=True)


def test_damaged_records_are_not_opened(exe, path, capsys, scheduler):
    exe.shutdown()
    path.write_bytes(b"garbage " * 1000)
    with pytest.raises(OSError, match=DAMAGED):
        open_executor(path)
    assert main(["jobs", "list", "-d", str(path.parents[1])]) == 1
    assert "is damaged" in capsys.readouterr().err
    path.unlink()
    open_executor(path).shutdown()


def test_records_of_another_version_are_refused(exe, path, monkeypatch, capsys):
    exe.shutdown()
    monkeypatch.setattr(records_file, "FORMAT", records_file.FORMAT + 1)
    with pytest.raises(ValueError, match="is that of another version of pympipool"):
        open_executor(path)
    assert main(["jobs", "list", "-d", str(path.parents[1])]) == 1
    assert "another version" in capsys.readouterr().err
