"""The thread that writes results."""

import threading
import time

import pytest

from pympipool.caching import writer as writers
from pympipool.caching.entries import UnwrittenEntry
from pympipool.caching.inputs import UNKNOWN, LastLoaded
from pympipool.caching.store import Store
from pympipool.caching.writer import Writer

TIMEOUT_S = 60


@pytest.fixture
def writer(tmp_path):
    made = Writer(Store(tmp_path / "cache"))
    yield made
    made.close(wait=True)


def test_flush_in_the_midst_of_a_round_returns(writer, monkeypatch):
    """The thread replaces the list of those to tell after each round: one that came meanwhile must be in the next list."""
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = writer._write

    def wait_and_write():
        is_writing.set()
        assert may_go_on.wait(TIMEOUT_S)
        write()

    monkeypatch.setattr(writer, "_write", wait_and_write)
    monkeypatch.setattr(writers, "FLUSH_LIMIT_S", 2 * TIMEOUT_S)
    flushes = [threading.Thread(target=writer.flush, daemon=True) for _ in range(2)]
    flushes[0].start()
    assert is_writing.wait(TIMEOUT_S)
    flushes[1].start()
    deadline_s = time.monotonic() + TIMEOUT_S
    while writer._mailbox.is_empty():  # the second flush has not asked yet
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    may_go_on.set()
    for flush in flushes:
        flush.join(TIMEOUT_S)
        assert not flush.is_alive()


def test_results_of_a_pause_are_written_together(writer, monkeypatch):
    """What wakes the thread must not end the pause, too."""
    rounds, write = [], writer._write

    def count_and_write():
        rounds.append(len(asked))
        write()

    asked = []
    monkeypatch.setattr(writer, "_write", count_and_write)
    monkeypatch.setattr(writer, "_pause_s", TIMEOUT_S)
    for number in range(20):
        asked.append(number)
        writer._mailbox.post(list)
        time.sleep(0.001)  # so that the thread begins its pause
    writer.flush()
    assert rounds == [20]


def test_unknown_versions_name_no_module(writer, caplog, monkeypatch):
    monkeypatch.setattr(writers, "changed_since", lambda *_: "numpy")
    entries = [
        UnwrittenEntry(b"key", f"f{version}", version, (), writer._store, LastLoaded()) for version in (UNKNOWN, 1)
    ]
    assert list(writer._results(entries)) == []
    assert [record.getMessage() for record in caplog.records] == [
        "results of f1() are not cached: the module numpy has changed meanwhile"
    ]
    assert writer.unkept == {"f-1", "f1"}
