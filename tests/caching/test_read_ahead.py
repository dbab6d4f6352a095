"""Rows that are read from the index together with the one that was asked for."""

import pytest

from pympipool.caching import index
from pympipool.caching.read_ahead import ROWS_AHEAD
from pympipool.caching.store import Store

ROWS = 3 * ROWS_AHEAD


def key(number):
    return number.to_bytes(20, "big")


def write(store, numbers, text):
    store.write([(key(number), [b"%b of %d" % (text, number)], "function", "", 1) for number in numbers])


@pytest.fixture
def open_store(tmp_path, monkeypatch):
    """Open the directory; rows that were read ahead are used for a long time."""
    monkeypatch.setattr(index, "REFRESH_S", 1e9)
    opened = []

    def open_one():
        opened.append(Store(tmp_path / "cache"))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    """A store with rows, which counts the questions that are put to SQLite."""
    store = open_store()
    write(store, range(ROWS), b"result")
    store.questions = []
    store.index._reader.set_trace_callback(store.questions.append)
    return store


def test_rows_in_order_take_few_questions(store):
    assert [store.find(key(number)) for number in range(ROWS)] == [b"result of %d" % number for number in range(ROWS)]
    assert len([text for text in store.questions if "WHERE key" in text]) < ROWS / 10


@pytest.mark.parametrize("step", [-1, 2, 7, ROWS_AHEAD + 1])
def test_rows_in_any_order_are_found(store, step):
    numbers = [number * step % ROWS for number in range(ROWS)]
    for number in [*numbers, *numbers]:
        assert store.find(key(number)) == b"result of %d" % number


def test_rows_replaced_here_are_seen_at_once(store):
    store.find(key(0))
    store.find(key(1))
    write(store, [2], b"other result")
    store.remove([key(3)])
    assert store.find(key(2)) == b"other result of 2"
    assert store.find(key(3)) is None
    assert store.find(key(4)) == b"result of 4"


def test_outdated_rows_stay_so_while_others_are_read(store, monkeypatch):
    """Another thread looks for a row, without the lock, while this one reads rows ahead."""
    store.find(key(0))
    store.find(key(1))
    write(store, [2], b"other result")
    reader, seen = store.index._ahead._connection, []

    class Reader:
        def execute(self, statement, parameters):
            if "ORDER BY id" in statement and not seen:
                seen.append(None)
                seen.append(store.find(key(2)))
            return reader.execute(statement, parameters)

    monkeypatch.setattr(store.index._ahead, "_connection", Reader())
    store.find(key(3))
    assert seen == [None, b"other result of 2"]


@pytest.mark.parametrize("refresh_s", [0.0, 1e9])
def test_rows_replaced_elsewhere_are_seen_later(store, refresh_s, monkeypatch):
    monkeypatch.setattr(store.index._ahead, "_refresh_s", refresh_s)
    monkeypatch.setattr("pympipool.caching.read_ahead.changes_of", lambda path: 0)  # as another process would
    store.find(key(0))
    store.find(key(1))
    write(store, [2], b"other result")
    assert store.find(key(2)) == (b"other result of 2" if refresh_s == 0.0 else b"result of 2")
