"""Large results that workers write to files in the cache directory, in place of sending them."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from pympipool import Executor
from pympipool.caching.files import ResultFiles
from pympipool.caching.handover import TOKEN, Handover
from pympipool.caching.store import Store
from pympipool.errors import CacheError, CacheWarning, WorkerDied
from pympipool.serialization import payload
from support.scripts import script_environment

TIMEOUT_S = 60
SIZE = 50_000


@pytest.fixture(params=[True, False], ids=["block_allocation", "one_process_per_call"])
def make_executor(request, directory):
    return lambda: Executor(max_workers=2, block_allocation=request.param, cache_directory=directory)


@pytest.fixture
def writes_of_master(monkeypatch):
    """The keys of the large results that the master has written itself."""
    keys, write = [], ResultFiles.write

    def write_and_note(self, key, parts):
        keys.append(key)
        return write(self, key, parts)

    monkeypatch.setattr(ResultFiles, "write", write_and_note)
    return keys


def array(value):
    return np.full(SIZE, value)


def total(values):
    return int(values.sum())


def unfinished(directory):
    """Return what is in the folder of what is being written."""
    folder = directory / "results" / "unfinished"
    return list(folder.iterdir()) if folder.exists() else []


def check_stored(directory, call, expected):
    """Check that the result of a call is in the cache."""
    with Executor(max_workers=1, block_allocation=True, cache_directory=directory) as exe:
        future = exe.submit(*call)
        assert future.done()
        np.testing.assert_array_equal(future.result(), expected)


# ---- where it goes ----


def test_workers_write_large_results(make_executor, directory, writes_of_master):
    with make_executor() as exe:
        np.testing.assert_array_equal(exe.submit(array, 3).result(), array(3))
        late = exe.submit(array, 4)
        assert exe.submit(total, late).result() == 4 * SIZE
    np.testing.assert_array_equal(late.result(), array(4))
    assert writes_of_master == []
    assert unfinished(directory) == []
    for value in (3, 4):
        check_stored(directory, (array, value), array(value))


def test_results_of_calls_without_cache_travel(make_block, directory, monkeypatch):
    monkeypatch.setattr(ResultFiles, "read_left", None)
    with make_block() as exe:
        np.testing.assert_array_equal(exe.submit(array, 3, resource_dict={"cache": False}).result(), array(3))
        assert [path.name for path in unfinished(directory)[0].iterdir()] == [TOKEN]


@pytest.mark.parametrize("damage", [lambda path: path.write_text("of another host"), os.unlink], ids=["other", "none"])
def test_results_travel_without_proof_of_the_same_folder(make_block, directory, writes_of_master, damage):
    with make_block() as exe:
        damage(unfinished(directory)[0] / TOKEN)
        np.testing.assert_array_equal(exe.submit(array, 3).result(), array(3))
    assert len(writes_of_master) == 1
    check_stored(directory, (array, 3), array(3))


def test_classes_of_the_script_travel(make_block, writes_of_master):
    class Point:
        def __init__(self):
            self.values = array(3)

    with make_block() as exe:
        np.testing.assert_array_equal(exe.submit(Point).result().values, array(3))
    assert len(writes_of_master) == 1


# ---- whose it is ----


@pytest.mark.parametrize("is_written", [True, False])
def test_changes_of_values_never_reach_the_file(make_block, directory, is_written):
    with make_block() as exe:
        future = exe.submit(array, 3)
        if is_written:
            exe.submit(abs, 0).result()
            exe._cache._writer.flush()
        values = future.result()
        values[:] = 5
        assert exe.submit(total, future).result() == 5 * SIZE
    check_stored(directory, (array, 3), array(3))


def test_results_that_are_not_stored_can_be_read(make_block, directory):
    exe = make_block()
    futures = [exe.submit(array, value) for value in range(3)]
    exe._cache._store.index.write = lambda rows: 1 / 0  # as if the index had no room
    with pytest.warns(CacheWarning, match="not cached"):
        exe.shutdown()
    for value, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), array(value))
    assert unfinished(directory) == []


def test_outdated_results_can_be_read_later(make_block, directory, monkeypatch):
    """A module has been edited since the key was made: the result is that of the call, but is not stored."""
    with make_block() as exe:
        monkeypatch.setattr("pympipool.caching.writer.changed_since", lambda *_: "a_module")
        future = exe.submit(array, 3)
    assert unfinished(directory) == []
    np.testing.assert_array_equal(future.result(), array(3))
    monkeypatch.undo()
    with make_block() as exe:
        assert not exe.submit(array, 3).done()


@pytest.mark.parametrize("problem", [OSError(errno.EMFILE, "no descriptor"), MemoryError()], ids=["EMFILE", "memory"])
def test_results_that_cannot_be_read_yet_stay(make_block, monkeypatch, problem):
    def refuse(*_):
        raise problem

    with make_block() as exe:
        monkeypatch.setattr("pympipool.caching.writer.changed_since", lambda *_: "a_module")
        monkeypatch.setattr(ResultFiles, "read_left", refuse)
        future = exe.submit(array, 3)
        assert wait([future], TIMEOUT_S).done
        exe._cache._writer.flush()
        monkeypatch.undo()
        late = exe.submit(array, 4)
        assert wait([late], TIMEOUT_S).done
        exe._cache._writer.flush()
        assert exe._cache._store.find(late.cache_entry.key) is not None
        np.testing.assert_array_equal(future.result(), array(3))


def draw():
    return np.random.default_rng().random(SIZE)


def test_a_removed_result_does_not_come_back(make_block, directory):
    with make_block() as exe:
        first = exe.submit(draw).result()
    with make_block() as exe:
        found = exe.submit(draw)
        assert found.done()
        other = Store(directory)
        other.remove([found.cache_entry.key])
        other.close()
        fresh = exe.submit(draw)
        assert not fresh.done()
        assert wait([fresh], TIMEOUT_S).done
        exe._cache._writer.flush()
        assert not np.array_equal(fresh.result(), first)


def test_a_removed_file_is_an_error_with_remedy(make_block, directory):
    with make_block() as exe:
        future = exe.submit(array, 3)
        while not future.done():
            pass
        exe._cache._writer.flush()
        shutil.rmtree(directory / "results")
        with pytest.raises(CacheError, match="Submit the call again"):
            future.result()


# ---- what killed processes leave ----

SCRIPT = """
import sys
from pympipool import Executor

if __name__ == "__main__":
    with Executor(max_workers=1, block_allocation=True, cache_directory=sys.argv[1]) as exe:
        exe.submit(abs, 1).result()
        print("begun", flush=True)
        sys.stdin.read()
"""


def test_only_folders_of_killed_scripts_are_removed(tmp_path, directory, mark):
    (tmp_path / "script.py").write_text(SCRIPT)
    scripts = [
        subprocess.Popen(
            [sys.executable, tmp_path / "script.py", directory],
            env=script_environment(mark),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        assert [script.stdout.readline() for script in scripts] == ["begun\n"] * 2
        folders = unfinished(directory)
        assert len(folders) == 2
        (folders[0] / "half").write_bytes(b"half of a result")
        (folders[1] / "half").write_bytes(b"half of a result")
        scripts[0].send_signal(signal.SIGKILL)
        scripts[0].wait(TIMEOUT_S)
        Store(directory).close()
        assert len(unfinished(directory)) == 1
        assert (unfinished(directory)[0] / "half").exists()
        scripts[1].communicate("", TIMEOUT_S)
        assert scripts[1].returncode == 0
        assert unfinished(directory) == []
    finally:
        for script in scripts:
            script.kill()
            script.communicate()


def test_a_folder_that_is_being_made_stays(directory):
    Store(directory).close()
    handover = Handover(directory)
    new, old = Path(handover.path), Path(Handover(directory).path)
    for folder in (new, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    Store(directory).close()
    assert (new.exists(), old.exists()) == (True, False)


def test_workers_without_room_send_results(directory):
    """Neither worker nor master can write more than 4 MB to a file: the calls go on, and one warning says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, before[1]))
    try:
        with Executor(max_workers=1, block_allocation=True, cache_directory=directory) as exe:
            assert exe.submit(np.arange, 1_000_000).result()[-1] == 999_999
            exe._cache._writer.flush()
            with pytest.warns(CacheWarning, match="not cached.*File too large"):
                future = exe.submit(np.arange, 1_000_001)
            assert future.result()[-1] == 1_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (directory / "results").rglob("*") if path.is_file()]


def die_while_writing():
    """Have this worker die when half of its next file is written."""
    from pympipool.caching import file_format

    def write_half(descriptor, blocks):
        os.write(descriptor, blocks[-1][: SIZE // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    file_format.write_all = write_half


def test_a_killed_worker_leaves_no_half_written_file(make_block, directory):
    with make_block(initializer=die_while_writing, max_workers=1) as exe:
        with pytest.raises(WorkerDied):
            exe.submit(array, 3).result(TIMEOUT_S)
        assert [path.name for path in unfinished(directory)[0].iterdir()] == [TOKEN]


@pytest.mark.parametrize("problem", ["no such files", "no /proc"])
def test_files_are_written_without_unnamed_ones(tmp_path, monkeypatch, problem):
    def refuse(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "no /proc")

    if problem == "no /proc":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.delattr(os, "O_TMPFILE")
    with contextlib.closing(Store(tmp_path / "cache")) as store:
        store.write([(bytes(20), payload.dump(array(3)), "f", "", 1)])
        size = store.find(bytes(20))
        np.testing.assert_array_equal(payload.load(store.files.read(bytes(20), size, in_full=True)), array(3))
