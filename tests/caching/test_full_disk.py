"""A disk without room: no file stays that nothing finds, and removing results makes room."""

import os
import sqlite3
import time
import warnings

import numpy as np
import pytest

from pympipool import Executor
from pympipool.caching.files import UNFINISHED_S
from pympipool.caching.store import Store
from pympipool.cli import main
from pympipool.errors import CacheWarning
from pympipool.serialization import payload

KEYS = [bytes([number]) * 20 for number in range(4)]


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "cache")
    yield made
    made.close()


def results(count):
    return [(key, payload.dump(np.arange(5000)), "f", "", 1) for key in KEYS[:count]]


def files_of(store):
    return [path for key in KEYS if os.path.exists(path := store.files.path(key))]


def fill(store):
    """Let the index have no more pages than now: so SQLite reports a full disk."""
    store.write([(b"first", [b"1"], "f", "", 1)])
    connection = store.index._writer
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")


def write_many(store):
    for number in range(1000):
        store.write([*results(2), (number.to_bytes(20, "big"), [b"0" * 4000], "f", "", 1)])


def test_files_without_rows_are_removed(store):
    fill(store)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.write([*results(3), *((number.to_bytes(20, "big"), [b"0" * 4000], "f", "", 1) for number in range(99))])
    assert files_of(store) == []


def test_files_with_rows_stay(store):
    store.write(results(2))
    fill(store)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        write_many(store)
    assert len(files_of(store)) == 2
    assert all(store.find(key) for key in KEYS[:2])


def test_what_comes_before_the_full_disk_is_kept(store):
    def until_full():
        yield from results(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.write(until_full())
    assert all(store.find(key) for key in KEYS[:2])


def array(value):
    return np.full(50_000, value)


def test_results_that_workers_wrote_can_be_read(tmp_path, monkeypatch):
    def refuse(self, rows):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("pympipool.caching.index.Index.write", refuse)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path / "cache") as exe:
            first = exe.submit(array, 1)
            np.testing.assert_array_equal(first.result(), array(1))
            late = exe.submit(array, 2)
    assert [warning.category for warning in warned] == [CacheWarning]
    np.testing.assert_array_equal(late.result(), array(2))
    assert list((tmp_path / "cache" / "results").glob("??/*")) == []


def test_prune_removes_results_of_a_full_disk(store, capsys, monkeypatch):
    """The index needs room for a note of what is removed, and the files make it."""
    store.write(results(3))
    remove, refusals = store.index.remove, [1]

    def remove_if_there_is_room(self, keys):
        if files_of(store):
            raise sqlite3.OperationalError("database or disk is full")
        refusals.append(0)
        remove(keys)

    monkeypatch.setattr("pympipool.caching.index.Index.remove", remove_if_there_is_room)
    assert main(["cache", "prune", "--older", "0s", "-d", store.path]) == 0
    assert "3 results removed" in capsys.readouterr().out
    assert refusals == [1, 0]


def test_prune_removes_files_of_killed_scripts(store):
    store.write(results(1))
    store.files.write(KEYS[1], payload.dump(np.arange(5000)))
    store.files.write(KEYS[2], payload.dump(np.arange(5000)))
    old_s = time.time() - UNFINISHED_S - 10
    for key in KEYS[:2]:
        os.utime(store.files.path(key), (old_s, old_s))
    assert main(["cache", "prune", "--older", "1d", "-d", store.path]) == 0
    assert files_of(store) == [store.files.path(KEYS[0]), store.files.path(KEYS[2])]
    assert store.find(KEYS[0])


def test_a_full_disk_is_no_damage(store, monkeypatch, capsys):
    def refuse(self, keys):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("pympipool.caching.index.Index.remove", refuse)
    assert main(["cache", "prune", "--older", "0s", "-d", store.path]) == 1
    err = capsys.readouterr().err
    assert "cannot be used: database or disk is full" in err
    assert "damaged" not in err
