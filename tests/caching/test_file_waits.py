"""A process that was stopped holds the lock of the index: calls run without the cache, and errors name the process."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings

import pytest

from pympipool import get_cache_data, get_future_from_cache
from pympipool.caching import directory as directories
from pympipool.caching import index
from pympipool.caching.file_waits import FileLockedError, FileWait
from pympipool.caching.store import Store
from pympipool.cli import main
from pympipool.errors import CacheWarning
from support.calls import square
from support.locked_files import stopped_holder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock: run it there")

LIMIT_S = 0.2
"""For how long the first step of a test waits."""

TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(index, "LOCK_LIMIT_S", LIMIT_S)


@pytest.fixture
def path(tmp_path):
    """A file of SQLite."""
    made = tmp_path / "some.sqlite"
    with sqlite3.connect(made) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
    connection.close()
    return made


@pytest.fixture
def begin(path):
    """Try to lock the file."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)

    def step():
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")

    yield step
    connection.close()


@pytest.fixture(params=["writing", "reading"])
def lock(request, directory, monkeypatch):
    """Lock the index, so that results cannot be written, or not even found."""
    begins = {"writing": "BEGIN IMMEDIATE", "reading": "BEGIN EXCLUSIVE"}  # the second without a write-ahead log
    if request.param == "reading":
        monkeypatch.setattr(directories, "file_system", lambda path: "nfs4")
    return lambda: stopped_holder(directory / "index.sqlite", begins[request.param])


def remedy(holder):
    return f"process {holder.pid} ({sys.executable} -c "


def test_the_error_names_the_stopped_process(path, begin):
    wait = FileWait(str(path), LIMIT_S)
    with stopped_holder(path) as holder:
        with pytest.raises(FileLockedError) as caught:
            wait.run(begin)
        words = str(caught.value)
        assert words.startswith(f"'{path}' is locked by {remedy(holder)}")
        assert words.endswith(
            f"which was stopped: let it go on by kill -CONT {holder.pid}, or end it by kill -9 {holder.pid}"
        )
        assert wait.locked_s() >= LIMIT_S
        holder.let_go()
    wait.run(begin)
    assert wait.locked_s() == 0


def test_only_the_first_wait_takes_long(path, begin, monkeypatch):
    pauses = []
    monkeypatch.setattr("pympipool.caching.file_waits.sleep", lambda s: (pauses.append(s), time.sleep(s)))
    wait = FileWait(str(path), LIMIT_S)
    with stopped_holder(path):
        counts = []
        for _ in range(3):
            with pytest.raises(FileLockedError):
                wait.run(begin)
            counts.append(len(pauses))
    assert counts[0] == counts[2] > 0


def test_a_thread_of_this_process_is_named(path, begin):
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FileLockedError, match="is locked by another thread of this process"):
            FileWait(str(path), LIMIT_S).run(begin)
        other.execute("ROLLBACK")
    other.close()


def test_an_unseen_process_is_looked_for(path, begin, monkeypatch):
    monkeypatch.setattr("pympipool.caching.file_waits.describe_holder", lambda *_: "")
    wait = FileWait(str(path), LIMIT_S, hint=lambda: "; there is host b")
    with stopped_holder(path), pytest.raises(FileLockedError) as caught:
        wait.run(begin)
    assert f"cannot be seen from here: lsof {path} shows it on its host; there is host b" in str(caught.value)


def test_other_errors_are_raised_at_once(path):
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.OperationalError, match="no such table"):
        FileWait(str(path), 1e6).run(connection.execute, "SELECT * FROM other")
    connection.close()


def test_calls_run_while_the_index_is_locked(make_executor, directory, lock, ran):
    make_executor().shutdown()
    with lock() as holder:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with make_executor() as exe:
                assert [exe.submit(square, x).result(TIMEOUT_S) for x in range(5)] == [x * x for x in range(5)]
                assert list(exe.map(square, range(20))) == [x * x for x in range(20)]
        assert [warning.category for warning in warned] == [CacheWarning]
        assert remedy(holder) in str(warned[0].message)
        holder.let_go()
    with make_executor() as exe:
        assert exe.submit(square, 7).result(TIMEOUT_S) == 49
    assert [call["result"] for call in get_cache_data(directory)] == [49]


def test_a_stopped_reader_is_named_without_a_log(make_block, directory, monkeypatch):
    """On a network file system, those that read keep others from writing."""
    monkeypatch.setattr(directories, "file_system", lambda path: "nfs4")
    with make_block() as exe:
        exe.submit(square, 3).result(TIMEOUT_S)
    with stopped_holder(directory / "index.sqlite", "BEGIN; SELECT * FROM results") as holder:
        with contextlib.closing(Store(directory)) as store, pytest.raises(FileLockedError) as caught:
            store.write([(bytes(20), [b"1"], "f", "", 1)])
        assert remedy(holder) in str(caught.value)


def test_known_results_are_found_while_writing_is_locked(make_block, directory):
    with make_block() as exe:
        exe.submit(square, 3).result(TIMEOUT_S)
    with stopped_holder(directory / "index.sqlite"), make_block() as exe:
        assert exe.submit(square, 3).done()
        assert get_future_from_cache(directory, get_cache_data(directory)[0]["key"]).result() == 9


def test_an_index_in_the_making_blocks_nothing(make_block, directory):
    directory.mkdir(mode=0o700)
    with sqlite3.connect(directory / "index.sqlite") as made:
        made.execute("PRAGMA journal_mode = WAL")
        with stopped_holder(directory / "index.sqlite") as holder:
            with pytest.warns(CacheWarning) as warned, make_block() as exe:
                assert exe.submit(square, 3).result(TIMEOUT_S) == 9
            assert "results are neither found nor kept" in str(warned[0].message)
            assert remedy(holder) in str(warned[0].message)
    made.close()


def test_reading_a_locked_cache_names_the_process(make_block, directory, monkeypatch):
    monkeypatch.setattr(directories, "file_system", lambda path: "nfs4")
    with make_block() as exe:
        exe.submit(square, 3).result(TIMEOUT_S)
    with stopped_holder(directory / "index.sqlite", "BEGIN EXCLUSIVE") as holder:
        for read in (get_cache_data, lambda path: get_future_from_cache(path, "a power")):
            with pytest.raises(BlockingIOError) as caught:
                read(directory)
            assert remedy(holder) in str(caught.value)


def test_prune_and_verify_fail_while_locked(make_block, directory, capsys):
    with make_block() as exe:
        exe.submit(square, 3).result(TIMEOUT_S)
        exe.submit(bytes, 5000).result(TIMEOUT_S)
    (file,) = (path for path in (directory / "results").glob("??/*"))
    file.write_bytes(b"damaged")
    with stopped_holder(directory / "index.sqlite") as holder:
        for action in (["prune", "--older", "0s"], ["verify"]):
            assert main(["cache", *action, "-d", str(directory)]) == 1
            out, err = capsys.readouterr()
            assert remedy(holder) in err
            assert "removed" not in out
    assert main(["cache", "prune", "--older", "0s", "-d", str(directory)]) == 0
    assert "2 results removed" in capsys.readouterr().out


INTERRUPTED = """
import sys, time
from pympipool import Executor
from pympipool.caching import file_waits, index
index.LOCK_LIMIT_S = 1e6
def pause(seconds):
    print("waits", flush=True)
    time.sleep(seconds)
file_waits.sleep = pause
try:
    Executor(cache_directory=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_wait(directory):
    """SQLite itself waits in C, where no signal is heeded."""
    directory.mkdir(mode=0o700)
    with sqlite3.connect(directory / "index.sqlite") as made:
        made.execute("PRAGMA journal_mode = WAL")
    made.close()
    command = [sys.executable, "-c", INTERRUPTED, str(directory)]
    with (
        stopped_holder(directory / "index.sqlite"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as script,
    ):
        try:
            assert script.stdout.readline() == "waits\n"
            script.send_signal(signal.SIGINT)
            assert script.communicate(timeout=TIMEOUT_S)[0].endswith("interrupted\n")
        finally:
            script.kill()


def test_opening_a_file_twice_keeps_its_locks(tmp_path):
    """Without them, another process that closes the index removes the log that this one writes to."""
    with contextlib.closing(Store(tmp_path / "cache")) as first:
        first.write([(bytes(20), [b"1"], "f", "", 1)])
        path = os.path.join(first.path, "index.sqlite")
        with contextlib.closing(Store(tmp_path / "cache")):
            code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(c.execute('SELECT value FROM results').fetchall())"
            for _ in range(2):
                done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
                assert done.stdout == "[(b'1',)]\n"
                assert os.path.exists(f"{path}-wal")
