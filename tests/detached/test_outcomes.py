"""How the futures of detached calls end, whatever their script does in the same moment."""

from pympipool.detached import outcomes
from pympipool.detached.futures import DetachedFuture
from support.calls import square
from support.made_up_scheduler import pickled


def test_calls_may_be_cancelled_at_any_moment(exe, scheduler, monkeypatch):
    future, call = exe._engine._prepare(square, (3,), {}, exe._resources)
    future.cancel(force=True)
    monkeypatch.setattr(DetachedFuture, "done", lambda self: False)  # it was not yet, when the watching thread looked
    outcomes.fail(call, ValueError("late"))
    assert outcomes.answer_from_cache(exe._engine._store, call, [pickled(9)])
    exe._engine._store.write([(call.key, [pickled(9)], "square", "3", 1)])
    assert outcomes.answer_from_cache(exe._engine._store, call)
    assert future.cancelled()
