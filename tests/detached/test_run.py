"""The program of a task: who notes how a call has ended."""

import threading

from pympipool.detached import run
from pympipool.detached.run import CALL_FAILED, TimeLimit
from support.waiting import LIMIT_S


def test_a_call_that_was_late_never_comes_back(monkeypatch):
    """Its result would be written while its end by the time limit is."""
    begun, noted, ended = threading.Event(), threading.Event(), []

    def note(limit_s):
        begun.set()
        assert noted.wait(LIMIT_S)

    monkeypatch.setattr(run, "end_task", ended.append)
    with TimeLimit(0.01, note):
        assert begun.wait(LIMIT_S)
        threading.Timer(0.05, noted.set).start()
    assert ended == [CALL_FAILED]


def test_a_call_that_has_ended_is_not_late(monkeypatch):
    late, ended = [], []
    monkeypatch.setattr(run, "end_task", ended.append)
    with TimeLimit(60, late.append) as limit:
        pass
    limit._end(60, late.append)  # the timer has begun in the last moment
    assert (late, ended) == ([], [])
