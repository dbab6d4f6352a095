"""A cache directory: who may use it, what is damaged in it, and what happens when there is no room."""

import contextlib
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pympipool import Executor, get_cache_data
from pympipool.caching import directory, files, store
from pympipool.caching.entries import load_stored
from pympipool.caching.index import FORMAT
from pympipool.caching.store import Store
from pympipool.errors import CacheError, CacheWarning
from pympipool.serialization import payload

KEY = bytes(range(20))
OTHER_KEY = bytes(range(1, 21))


@pytest.fixture
def cache(tmp_path):
    made = Store(tmp_path / "cache")
    yield made
    made.close()


def large():
    return {"a": np.arange(30_000), "b": np.ones(7, dtype="u1"), "c": "text"}


def write(cache, key, value):
    cache.write([(key, payload.dump(value), "function", "arguments", 5)])


def file_of(cache, key=KEY):
    return Path(cache.files.path(key))


def read(cache, key=KEY):
    found = cache.find(key)
    if isinstance(found, int):
        return payload.load(cache.files.read(key, found))
    return None if found is None else payload.load([found])


def files_in(folder):
    """Return the files of large results."""
    return [path for path in (folder / "results").glob("*/*") if path.is_file()]


# ---- what is written is read ----


@pytest.mark.parametrize(
    "value", [None, 1, "text" * 3000, b"\0" * 5000, list(range(100)), [np.arange(5)] * 3], ids=type
)
def test_what_is_written_is_read(cache, value):
    write(cache, KEY, value)
    assert str(read(cache)) == str(value)
    assert cache.find(OTHER_KEY) is None


def test_large_arrays_are_mapped_and_private(cache):
    write(cache, KEY, large())
    first = read(cache)
    assert (first["a"] == np.arange(30_000)).all()
    first["a"][:] = 0
    first["b"][:] = 0
    assert (read(cache)["a"] == np.arange(30_000)).all()
    assert read(cache)["a"].ctypes.data % 64 == 0


def test_arrays_stay_when_their_file_is_removed(cache):
    write(cache, KEY, large())
    value = read(cache)
    cache.remove([KEY])
    assert (value["a"] == np.arange(30_000)).all()
    assert read(cache) is None
    assert not file_of(cache).exists()


def test_results_are_replaced(cache):
    write(cache, KEY, large())
    value = read(cache)
    write(cache, KEY, "another")
    assert read(cache) == "another"
    assert (value["a"] == np.arange(30_000)).all()


# ---- what is damaged is missing ----


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def change_first(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def change_pickle(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"text")] ^= 1
    path.write_bytes(content)


def change_sizes(path):
    content = bytearray(path.read_bytes())
    content[32:40] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(content)


def change_count(path):
    content = bytearray(path.read_bytes())
    content[8:16] = b"\xff" * 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, os.unlink, change_first, change_pickle, change_sizes, change_count])
def test_a_damaged_file_is_missing_and_removed(cache, damage):
    write(cache, KEY, large())
    damage(file_of(cache))
    assert cache.find(KEY) is None
    assert cache.index.row(KEY) is None
    assert not file_of(cache).exists()
    write(cache, KEY, large())
    assert read(cache)["c"] == "text"


def change_last(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_results_of_other_boots_are_checked_in_full(cache, monkeypatch):
    write(cache, KEY, large())
    change_last(file_of(cache))
    assert cache.find(KEY) is not None
    monkeypatch.setattr(store, "boot_id", lambda: b"another")
    assert cache.find(KEY) is None
    write(cache, KEY, large())
    monkeypatch.undo()
    assert read(cache)["c"] == "text"


def test_verify_finds_damaged_arrays(cache):
    write(cache, KEY, large())
    write(cache, OTHER_KEY, large())
    change_last(file_of(cache))
    assert {row.key: is_whole for row, is_whole in cache.verify()} == {KEY: False, OTHER_KEY: True}
    assert cache.find(KEY) is None


@pytest.mark.parametrize("value", [b"no pickle", "no bytes", 3], ids=repr)
def test_a_damaged_small_result_is_missing(cache, tmp_path, value):
    write(cache, KEY, "small")
    with sqlite3.connect(tmp_path / "cache" / "index.sqlite") as connection:
        connection.execute("UPDATE results SET value = ?", (value,))
    connection.close()
    assert cache.find(KEY) is None


def test_an_index_that_is_none_begins_anew(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "index.sqlite").write_bytes(b"no index of SQLite" * 1000)
    (tmp_path / "cache" / "index.sqlite").chmod(0o600)
    made = Store(tmp_path / "cache")
    write(made, KEY, 1)
    assert read(made) == 1
    made.close()
    assert (tmp_path / "cache" / "index.sqlite.damaged").exists()


def test_results_of_another_version_are_refused(tmp_path):
    Store(tmp_path / "cache").close()
    with sqlite3.connect(tmp_path / "cache" / "index.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT ^ 1}")
    connection.close()
    with pytest.raises(ValueError, match="another version of pympipool"):
        Store(tmp_path / "cache")


def test_damage_after_the_answer_is_an_error(tmp_path):
    options = {"max_workers": 1, "block_allocation": True, "cache_directory": tmp_path / "cache"}
    with Executor(**options) as exe:
        exe.submit(np.arange, 1_000_000).result()
    with Executor(**options) as exe:
        future = exe.submit(np.arange, 1_000_000)
        for path in files_in(tmp_path / "cache"):
            path.unlink()
        with pytest.raises(CacheError, match="Submit the call again"):
            future.result()
        assert exe.submit(np.arange, 1_000_000).result()[-1] == 999_999


def test_a_moderate_result_stays_mapped_until_read(cache):
    for key in (KEY, OTHER_KEY):
        write(cache, key, large())
    found = cache.find(KEY)
    assert cache.find(OTHER_KEY) == found
    file_of(cache).unlink()
    assert payload.load(cache.files.read(KEY, found))["c"] == "text"
    with pytest.raises(FileNotFoundError):  # only once: the values of two readers must not share memory
        cache.files.read(KEY, found)
    assert read(cache) is None
    cache.remove([OTHER_KEY])
    assert read(cache, OTHER_KEY) is None


def test_older_mappings_are_not_read(cache, tmp_path, monkeypatch):
    write(cache, KEY, np.zeros(30_000))
    found = cache.find(KEY)
    other = Store(tmp_path / "cache")
    write(other, KEY, np.ones(30_000))
    other.close()
    monkeypatch.setattr(files, "KEPT_MAX", 1)
    assert cache.find(KEY) == found
    assert (payload.load(cache.files.read(KEY)) == 1).all()
    monkeypatch.setattr(files, "KEPT_MAX", 0)
    assert cache.find(KEY) == found
    assert (payload.load(cache.files.read(KEY, found)) == 1).all()


def find(cache, found):
    assert cache.find(KEY) is None


def load(cache, found):
    with pytest.raises(CacheError, match="Submit the call again"):
        load_stored(KEY, cache, found)


def verify(cache, found):
    assert [is_whole for _, is_whole in cache.verify()] == [False]


@pytest.mark.parametrize("look", [find, load, verify])
def test_a_file_before_its_row_stays(cache, tmp_path, monkeypatch, look):
    """Another script replaces a result by one of another size."""
    monkeypatch.setattr(files, "KEPT_MAX", 0)
    write(cache, KEY, large())
    found = cache.find(KEY)
    other = Store(tmp_path / "cache")
    write_rows = other.index.write

    def look_and_write(rows):
        look(cache, found)
        write_rows(rows)

    other.index.write = look_and_write
    write(other, KEY, np.ones(40_000))
    assert len(read(other)) == 40_000
    other.close()


def test_files_are_read_in_pieces(cache, monkeypatch):
    """Linux reads at most 2 GiB at once."""
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 1000), offset))
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: preadv(descriptor, [views[0][:1000]], offset))
    monkeypatch.setattr(files, "KEPT_MAX", 0)
    for value in ("text" * 3000, [np.arange(100)] * 20):
        write(cache, KEY, value)
        assert str(read(cache)) == str(value)


def test_systems_are_asked_for_few_bytes(cache, monkeypatch):
    """macOS refuses to read or write 2 GiB at once."""
    preadv, writev, asked = os.preadv, os.writev, []

    def note(views):
        asked.append(sum(map(len, views)))
        return views

    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: preadv(descriptor, note(views), offset))
    monkeypatch.setattr(os, "writev", lambda descriptor, views: writev(descriptor, note(views)))
    monkeypatch.setattr(files.access, "BYTES_MAX", 1000)
    monkeypatch.setattr(files, "KEPT_MAX", 0)
    write(cache, KEY, large())
    assert str(read(cache)) == str(large())
    assert max(asked) == 1000


def test_without_memory_results_stay(cache, monkeypatch):
    def refuse(*_):
        raise MemoryError

    write(cache, KEY, large())
    monkeypatch.setattr(files.ResultFiles, "_read", refuse)
    assert cache.find(KEY) is None
    monkeypatch.undo()
    assert read(cache)["c"] == "text"


def test_what_killed_scripts_left_is_removed(tmp_path):
    made = Store(tmp_path / "cache")
    write(made, KEY, large())
    made.close()
    old, new = (tmp_path / "cache" / "results" / "unfinished" / name for name in ("host.1.1", "host.2.1"))
    for path in (old, new):
        path.write_bytes(b"half of a result")
    os.utime(old, (0, 0))
    Store(tmp_path / "cache").close()
    assert not old.exists()
    assert new.exists()


# ---- several writers ----


def test_moved_files_are_no_orphans_without_their_rows(cache, tmp_path, monkeypatch):
    write(cache, KEY, large())
    os.rename(file_of(cache), tmp_path / "left")
    os.utime(tmp_path / "left", (0, 0))
    cache.index.remove([KEY])
    orphans = []
    monkeypatch.setattr(cache.index, "write", lambda rows: orphans.append(cache.remove_orphans()))
    cache.adopt(KEY, str(tmp_path / "left"), 1, "f", "", 0)
    assert orphans == [0]


def test_files_move_where_there_are_no_times(cache, tmp_path, monkeypatch):
    write(cache, KEY, large())
    os.rename(file_of(cache), tmp_path / "left")
    monkeypatch.setattr(os, "utime", lambda _: os.stat("/nowhere"))
    cache.adopt(KEY, str(tmp_path / "left"), 1, "f", "", 0)
    assert os.path.exists(file_of(cache))


def test_many_threads_and_stores_write_at_once(tmp_path):
    errors = []

    def work(number):
        try:
            own = Store(tmp_path / "cache")
            for index in range(30):
                key = bytes([number, index]) * 10
                write(own, key, large() if index % 10 == 0 else (number, index))
                assert read(own, key) is not None
            own.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    made = Store(tmp_path / "cache")
    assert sum(is_whole for _, is_whole in made.verify()) == 180
    made.close()


def test_threads_find_what_they_ask_for(cache):
    keys = [bytes([number]) * 20 for number in range(100)]
    cache.write([(key, [key], "f", "", 0) for key in keys])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(cache.find, keys * 50))
    assert found == keys * 50


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "fuse.new"])
def test_network_file_systems_get_another_journal(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(directory, "file_system", lambda path: kind)
    made = Store(tmp_path / "cache")
    assert made.is_shared
    write(made, KEY, 1)
    assert read(made) == 1
    assert not list((tmp_path / "cache").glob("*-shm"))
    made.close()


def test_the_file_system_of_a_path_is_found():
    assert directory.file_system("/proc/self") == "proc"
    assert directory.file_system("/proc") == "proc"
    assert directory.file_system("/process") != "proc"


# ---- whose directory it is ----


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o722])
def test_directories_others_can_write_are_refused(tmp_path, mode):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(PermissionError, match=f"mode {mode:o}.*chmod go-w"):
        Executor(max_workers=1, cache_directory=tmp_path / "cache")
    (tmp_path / "cache").chmod(0o755)
    Executor(max_workers=1, cache_directory=tmp_path / "cache").shutdown()


def test_an_index_others_can_write_is_refused(tmp_path):
    Store(tmp_path / "cache").close()
    (tmp_path / "cache" / "index.sqlite").chmod(0o666)
    with pytest.raises(PermissionError, match=r"index\.sqlite.*mode 666"):
        Store(tmp_path / "cache")


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (tmp_path / "cache").mkdir()
    with pytest.raises(PermissionError, match=r"belongs to the user with number.*of your own"):
        Store(tmp_path / "cache")


def test_a_link_inside_is_refused(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache" / "results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="symbolic link"):
        Store(tmp_path / "cache")


def test_links_to_own_directories_are_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    Store(tmp_path / "link").close()
    assert (tmp_path / "cache" / "index.sqlite").exists()


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(NotADirectoryError, match="name a directory"):
        Store(tmp_path / "cache")


def test_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache_directory is .*, which cannot be made .*; name a directory where"):
        Store(tmp_path / "file" / "cache")


def test_files_are_for_the_user_only(cache):
    write(cache, KEY, large())
    for path in (*Path(cache.path).rglob("*"), Path(cache.path)):
        assert path.stat().st_mode & 0o077 == 0, path


# ---- no room ----


@pytest.mark.parametrize("problem", [OSError(28, os.strerror(28)), TypeError("No space left")], ids=["no room", "any"])
def test_a_full_disk_ends_no_call(tmp_path, monkeypatch, problem):
    def no_room(*_):
        raise problem

    monkeypatch.setattr("pympipool.caching.file_format.write_all", no_room)
    monkeypatch.setattr("pympipool.caching.files.ResultFiles.take_left", no_room)
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
        assert exe.submit(np.arange, 50_000).result()[-1] == 49_999
        exe._cache._writer.flush()
        with pytest.warns(CacheWarning, match="not cached in .*cache.*No space left"):
            future = exe.submit(np.arange, 50_001)
        assert future.result()[-1] == 50_000
        assert exe.submit(np.arange, 50_002).result()[-1] == 50_001  # no further warning
    assert not files_in(tmp_path / "cache")
    monkeypatch.undo()
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
        assert exe.submit(np.arange, 50_000).result()[-1] == 49_999


@pytest.mark.parametrize("column", ["key", "size", "created", "function"])
def test_rows_of_other_types_are_damage(tmp_path, column):
    with contextlib.closing(Store(tmp_path / "cache")) as cache:
        write(cache, KEY, large())
        with sqlite3.connect(tmp_path / "cache" / "index.sqlite") as connection:
            connection.execute(f"UPDATE results SET {column} = ?", ("text" if column != "function" else b"\1",))
        connection.close()
        assert cache.find(KEY) is None or column in ("created", "function")
    with contextlib.closing(Store(tmp_path / "cache")) as cache:
        write(cache, OTHER_KEY, 1)
        if column != "size":  # that row is gone
            with pytest.raises(OSError, match=r"is damaged: .*remove the directory"):
                get_cache_data(tmp_path / "cache")


def test_a_read_only_directory_is_named(tmp_path, monkeypatch):
    Store(tmp_path / "cache").close()
    monkeypatch.setattr(os, "access", lambda path, mode: not (path.endswith("cache") and mode == os.W_OK))
    with pytest.raises(PermissionError, match=r"cache' is read-only, .*: copy the cache directory"):
        get_cache_data(tmp_path / "cache")
