"""The program of a task: who notes how a call has ended."""

import threading
from types import SimpleNamespace

import pytest

from pympipool.detached import run
from pympipool.detached.run import CALL_FAILED, Job, TimeLimit
from pympipool.detached.spool import Spool
from pympipool.worker import call_runner
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


@pytest.mark.parametrize("is_raised", [True, False])
def test_only_exceptions_of_the_call_are_its_own(tmp_path, monkeypatch, is_raised):
    """What a file system raises while a call is read must not answer the call from then on (`cache_exceptions`)."""
    job, job.spool, job.root, job.where = Job.__new__(Job), Spool(str(tmp_path), "0123"), str(tmp_path), "here"
    job.common, job._is_raised = {"run_time_max": None}, False
    (tmp_path / "0123" / "ends").mkdir(parents=True)
    job._forks = None
    runner = SimpleNamespace(run=lambda *_: int("x"))
    monkeypatch.setattr(call_runner, "CallRunner", lambda _, forks: runner)

    def read_call(number):
        if not is_raised:
            raise OSError("stale file handle")
        return {}, []

    monkeypatch.setattr(job.spool, "read_call", read_call)
    with pytest.raises((OSError, ValueError)) as caught:
        job.run_call(0)
    job.write_error(0, caught.value)
    assert job.spool.end(0).is_raised == is_raised


def test_a_task_has_one_hook_for_forks(project):
    """They cannot be removed, and all of them run at each fork."""
    code = "import gc; from pympipool.worker.call_forks import CallForks\n"
    code += "def hooks(x): return sum(type(one) is CallForks for one in gc.get_objects())\n"
    code += "with executor(max_workers=1) as exe: print(*exe.map(hooks, range(4), chunksize=4))"
    assert project.run(code) == "1 1 1 1\n"
