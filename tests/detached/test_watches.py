"""What follows from the answers of a scheduler: late files, lost and preempted jobs, silence. The scheduler is a made-up one."""

import shutil
import time
import warnings
from pathlib import Path

import pytest

from pympipool import Executor
from pympipool.detached import watches
from pympipool.detached.schedulers import State, TaskState
from pympipool.errors import JobError, JobWarning, WorkerStartError
from support.calls import add, square
from support.made_up_scheduler import pickled, submit
from support.waiting import wait_until


def test_a_result_that_comes_late_is_taken(exe, scheduler, monkeypatch):
    monkeypatch.setattr(watches, "LATE_S", 60.0)
    call = submit(exe, scheduler, square, 3)
    scheduler.answers["1", 0] = TaskState(State.ENDED, "COMPLETED")
    asked = scheduler.questions
    wait_until(lambda: scheduler.questions > asked + 3)
    assert not call.done()
    scheduler.end("1", 0, pickled(9))
    assert call.result(timeout=60) == 9


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (TaskState(State.ENDED, "COMPLETED"), "COMPLETED"),
        (TaskState(State.FAILED, "PREEMPTED"), "PREEMPTED"),
        (TaskState(State.FAILED, "NODE_FAIL"), "NODE_FAIL"),
        (TaskState(State.UNKNOWN, "ask it elsewhere"), "ask it elsewhere"),
        (None, "slurm does not know it any more"),
    ],
    ids=str,
)
def test_a_task_without_a_result_fails(exe, scheduler, state, words):
    call = submit(exe, scheduler, square, 3)
    scheduler.answers["1", 0] = TaskState(State.RUNNING)
    wait_until(call.running)
    scheduler.answers["1", 0] = state
    with pytest.raises(JobError, match=words) as error:
        call.result(timeout=60)
    assert error.value.function == "square"
    assert error.value.job == "1_0"


def test_a_job_that_never_starts_is_cancelled(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    scheduler.answers["1", 0] = TaskState(State.NEVER, "PENDING (PartitionTimeLimit)")
    assert call.exception(timeout=60).words == "PENDING (PartitionTimeLimit)"
    assert scheduler.cancelled == [("1", None)]


def test_tasks_of_an_array_are_cancelled_at_once(exe, scheduler):
    exe.map(square, range(3))
    wait_until(lambda: scheduler.requests)
    exe.kill_workers()
    assert scheduler.cancelled == [("1", [2, 1, 0])], "the last ones first, or they would start in the place of others"


def test_a_failed_cancel_is_tried_again(exe, scheduler, monkeypatch):
    call, other = submit(exe, scheduler, square, 3), submit(exe, scheduler, square, 4)
    cancel = scheduler.cancel

    def fail_once(job, tasks):
        monkeypatch.setattr(scheduler, "cancel", cancel)
        raise OSError("no route to host")

    monkeypatch.setattr(scheduler, "cancel", fail_once)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert call.cancel()
        wait_until(lambda: scheduler.cancelled)
        wait_until(lambda: warned)
    assert scheduler.cancelled == [("1", None)]
    assert str(warned[0].message).startswith("detached jobs: no route to host; it is tried again")
    assert not other.done()


@pytest.mark.filterwarnings("ignore::pympipool.errors.JobWarning")  # at the end of the executor, for the other one
def test_a_failed_cancel_keeps_no_other_running(exe, scheduler, monkeypatch):
    calls = [submit(exe, scheduler, square, number) for number in (3, 4)]
    cancel = scheduler.cancel

    def cancel_first_only(job, tasks):
        if job == "2":
            raise WorkerStartError("job 2 is out of reach")
        cancel(job, tasks)

    monkeypatch.setattr(scheduler, "cancel", cancel_first_only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JobWarning)
        assert calls[1].cancel()
        assert calls[0].cancel()
        wait_until(lambda: scheduler.cancelled)
    assert scheduler.cancelled == [("1", None)]


def test_a_lost_submission_keeps_no_other_waiting(exe, scheduler, monkeypatch):
    lost, other = (submit(exe, scheduler, square, number) for number in (3, 4))
    watcher = exe._engine._watcher

    def recover(*_):
        raise WorkerStartError("its instance is out of reach")

    def lose():
        next(iter(watcher._watches._watches.values())).job = None

    monkeypatch.setattr(watcher._watches._submitter, "recover", recover)
    watcher._mailbox.post(lose)
    scheduler.answers["2", 0] = TaskState(State.FAILED, "NODE_FAIL")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert other.exception(timeout=60).words == "NODE_FAIL"
        wait_until(lambda: warned)
    assert "its instance is out of reach; it is tried again" in str(warned[0].message)
    assert not lost.done()


def test_a_silent_scheduler_ends_no_call(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    scheduler.is_silent = True
    asked, begin_s = scheduler.questions, time.monotonic()
    wait_until(lambda: scheduler.questions > asked + 5 and time.monotonic() - begin_s > 1.0)
    assert not call.done()
    scheduler.end("1", 0, pickled(9))
    assert call.result(timeout=60) == 9


def test_a_requeued_job_is_waited_for(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    for state in (State.RUNNING, State.WAITING, State.RUNNING):
        scheduler.answers["1", 0] = TaskState(state)
        wait_until(lambda state=state: call.running() is (state is State.RUNNING))
    scheduler.end("1", 0, pickled(9))
    assert call.result(timeout=60) == 9


def test_a_lost_job_is_submitted_again(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    scheduler.answers["1", 0] = TaskState(State.LOST)
    wait_until(lambda: len(scheduler.requests) == 2)
    scheduler.end("2", 0, pickled(9))
    assert call.result(timeout=60) == 9


def test_silence_of_the_scheduler_is_a_warning(exe, scheduler, monkeypatch):
    monkeypatch.setattr("pympipool.detached.watcher.SILENCE_S", 0.1)
    scheduler.is_silent = True
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        call = submit(exe, scheduler, square, 3)
        wait_until(lambda: warned)
        asked = scheduler.questions
        wait_until(lambda: scheduler.questions > asked + 2)
        scheduler.end("1", 0, pickled(9))
        assert call.result(timeout=60) == 9
    assert [(one.category, str(one.message)[:30]) for one in warned] == [(JobWarning, "slurm has not answered for 0.1")]


def test_problems_of_the_scheduler_are_warnings(exe, scheduler):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        scheduler.problem = "it sleeps"
        submit(exe, scheduler, square, 3)
        wait_until(lambda: warned)
        scheduler.problem = "it snores"
        wait_until(lambda: len(warned) == 2)
    assert [str(one.message) for one in warned] == ["it sleeps", "it snores"]


def test_dependencies_name_the_tasks_that_have_not_ended(exe, scheduler):
    first, second = submit(exe, scheduler, square, 2), submit(exe, scheduler, square, 3)
    scheduler.end("1", 0, pickled(4))
    assert first.result(timeout=60) == 4
    submit(exe, scheduler, add, first, second)
    assert scheduler.requests["3"].after == [("2", None)]


def test_a_large_map_is_several_arrays(exe, scheduler):
    exe.map(square, range(8))
    wait_until(lambda: len(scheduler.requests) == 3)
    assert [request.tasks for request in scheduler.requests.values()] == [3, 3, 2]


def test_a_refused_map_fails_all_of_its_calls(exe, scheduler):
    scheduler.refusal = "no such account"
    results = [exe.submit(square, x) for x in (1, 2)]
    assert [str(call.exception(timeout=60)) for call in results] == ["no such account"] * 2
    scheduler.refusal = None
    submit(exe, scheduler, square, 1)


def test_the_same_call_has_one_job(exe, scheduler):
    first = submit(exe, scheduler, square, 3)
    second = exe.submit(square, 3)
    scheduler.end("1", 0, pickled(9))
    assert first.result(timeout=60) == second.result(timeout=60) == 9
    assert len(scheduler.requests) == 1


def test_a_damaged_result_is_an_error(exe, scheduler):
    call = submit(exe, scheduler, square, 3)
    scheduler.answers["1", 0] = TaskState(State.RUNNING)
    Path(scheduler.requests["1"].spool.path, "ends", "0").write_text("[false, 100, 1]")
    assert "its result cannot be read" in str(call.exception(timeout=60))


def test_a_removed_directory_ends_its_calls(exe, scheduler, tmp_path):
    call = submit(exe, scheduler, square, 3)
    shutil.rmtree(tmp_path / "cache")
    with Executor(backend="slurm", cache_directory=tmp_path / "cache", detached=True):
        with pytest.raises(JobError, match="was removed while this executor used it; make another"):
            call.result(60)
        with pytest.raises(FileNotFoundError, match="make another Executor"):
            exe.submit(square, 4).result(60)
