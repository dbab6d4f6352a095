"""How the futures of detached calls end, whatever their script does in the same moment."""

import pytest

from pympipool import get_item_from_future
from pympipool.caching.values import digest_of
from pympipool.detached import outcomes
from pympipool.detached.futures import DetachedFuture
from pympipool.errors import JobError
from pympipool.serialization.exceptions import dump_exception
from support.calls import square
from support.made_up_scheduler import pickled


def leave():
    raise SystemExit(9)


class LeavesWhenUnpickled(Exception):
    is_armed = False

    def __setstate__(self, state):
        if self.is_armed:
            leave()

    def __reduce__(self):
        return LeavesWhenUnpickled, (), {"state": 1}


class ValueThatLeaves:
    def __reduce__(self):
        return leave, ()


def test_calls_may_be_cancelled_at_any_moment(exe, scheduler, monkeypatch):
    future, call = exe._engine._prepare(square, (3,), {}, exe._resources, None)
    future.cancel(force=True)
    monkeypatch.setattr(DetachedFuture, "done", lambda self: False)  # it was not yet, when the watching thread looked
    outcomes.fail(call, ValueError("late"))
    assert outcomes.answer_from_cache(exe._engine._store, call, [pickled(9)])
    exe._engine._store.write([(call.key, [pickled(9)], "square", "3", 1)])
    assert outcomes.answer_from_cache(exe._engine._store, call)
    assert future.cancelled()


def test_unpickling_must_not_end_the_thread(exe, scheduler, monkeypatch):
    parts = [bytes(part) for part in dump_exception(LeavesWhenUnpickled(), "job")]
    monkeypatch.setattr(LeavesWhenUnpickled, "is_armed", True)
    (raised, first), (returned, second) = (exe._engine._prepare(square, (x,), {}, exe._resources, None) for x in (3, 4))
    outcomes.fail_with_exception(first, parts)
    assert outcomes.answer_from_cache(exe._engine._store, second, [pickled(ValueThatLeaves())])
    for future in (raised, returned):
        with pytest.raises(JobError, match="cannot be unpickled in this script: SystemExit: 9"):
            future.result(60)


def test_items_are_known_as_before_by_keys(exe, scheduler):
    future, call = exe._engine._prepare(square, (3,), {}, exe._resources, None)
    before, also = [get_item_from_future(future, 0) for _ in range(2)]
    exe._engine._store.write([(call.key, [pickled([[9], [9]])], "square", "3", 1)])
    assert outcomes.answer_from_cache(exe._engine._store, call)
    assert future.result(60) == [[9], [9]]
    after = get_item_from_future(future, 0)
    assert digest_of(before, after) == digest_of(before, also)
