"""The keys in memory: nothing is taken for unknown that is there, whoever has written it."""

import subprocess
import sys

import pytest

from pympipool.caching import known_keys
from pympipool.caching.store import Store
from pympipool.serialization import payload

WRITE = """
import sys
from pympipool.caching.store import Store

store = Store(sys.argv[1])
store.write([(bytes([number]) * 20, [b"another"], "f", "", 0) for number in map(int, sys.argv[2:])])
store.close()
"""


@pytest.fixture
def make_store(tmp_path):
    made = []

    def make():
        made.append(Store(tmp_path / "cache"))
        return made[-1]

    yield make
    for store in made:
        store.close()


def key(number):
    return bytes([number]) * 20


def write(store, *numbers):
    store.write([(key(number), payload.dump(number), "f", "", 0) for number in numbers])


def known(store):
    return store.index._known._keys


def test_unknown_keys_are_not_asked_for(make_store):
    store = make_store()
    write(store, 1)
    assert store.find(key(2)) is None
    assert known(store) == {key(1)}
    asked = []
    store.index._reader.set_trace_callback(asked.append)
    assert all(store.find(key(number)) is None for number in range(100, 110))
    assert not any("key =" in statement for statement in asked)


def test_large_indexes_are_read_after_many_questions(make_store):
    store = make_store()
    write(store, *range(100))
    for _ in range(-(-100 // known_keys.ROWS_PER_QUESTION)):
        assert known(store) is None
        assert store.find(key(200)) is None
    assert len(known(store)) == 100


def test_what_another_store_writes_is_found_at_once(make_store):
    first, second = make_store(), make_store()
    for number in range(50):
        assert first.find(key(number)) is None
        write(second, number)
        assert first.find(key(number)) is not None


def test_what_another_process_writes_is_found(make_store, tmp_path):
    store = make_store()
    for numbers in (["1", "2"], ["3"]):
        assert store.find(key(int(numbers[0]))) is None
        subprocess.run([sys.executable, "-c", WRITE, tmp_path / "cache", *numbers], check=True)
        assert store.find(key(int(numbers[0]))) == b"another"
        assert store.find(key(int(numbers[-1]))) == b"another"


def test_removed_results_are_not_found(make_store):
    store = make_store()
    write(store, 1, 2)
    assert store.find(key(3)) is None
    store.remove([key(2)])
    assert store.find(key(2)) is None
    write(store, 4)  # it gets the number of the row that was removed
    assert store.find(key(4)) is not None
    assert store.find(key(1)) is not None


@pytest.mark.parametrize("written", [[50], [50, 51], [50, 51, 52]])
def test_numbers_of_removed_rows_are_given_again(make_store, monkeypatch, written):
    store, other = make_store(), make_store()
    write(other, *range(1, 5))
    assert store.find(key(100)) is None
    assert known(store)
    other.remove([key(3), key(4)])
    write(other, *written)
    monkeypatch.setattr(store.index._known, "_refresh_at_s", 0.0)
    assert None not in [store.find(key(number)) for number in written]


def test_what_was_just_written_is_found_now(make_store, tmp_path):
    store = make_store()
    write(store, 1)
    assert [store.find(key(100)) for _ in range(2)] == [None, None]
    store.index._known._refresh_at_s = float("inf")
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "cache"), "100"], check=True)
    assert store.find(key(100)) is None
    assert store.find_all([key(100)], now=True).keys() == {key(100)}
