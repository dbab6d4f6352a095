"""The jobspecs of detached calls, which are made without flux."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pympipool._util.service_threads import ServiceThread
from pympipool.detached import flux as detached_flux
from pympipool.detached.flux import FluxScheduler, _jobspecs, check
from pympipool.detached.flux_jobs import Job
from pympipool.detached.schedulers import JobRequest, State, TaskState
from pympipool.detached.spool import Spool
from pympipool.errors import WorkerStartError
from pympipool.resources import Resources


def request(folder, after=(), **resources):
    return JobRequest(
        spool=Spool(str(folder), "0123"),
        tasks=2,
        resources=Resources(**resources),
        command=["python", "run.py"],
        environment={"PYMPIPOOL_PATH": "/packages"},
        cwd="/home/me",
        after=after,
        at_once=None,
        cores_at_once=1,
    )


def test_each_task_has_a_jobspec_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_KEY", "secret")
    first, second = _jobspecs(request(tmp_path, threads_per_core=3), 60.0)
    assert [one["tasks"][0]["command"] for one in (first, second)] == [
        ["python", "run.py", "0"],
        ["python", "run.py", "1"],
    ]
    system = second["attributes"]["system"]
    assert system["job"]["name"] == "pympipool-0123"
    assert system["duration"] == 60.0
    assert system["cwd"] == "/home/me"
    assert system["environment"]["PYMPIPOOL_PATH"] == "/packages"
    assert "PYMPIPOOL_KEY" not in system["environment"]
    log = {"type": "file", "path": f"{tmp_path}/0123/logs/1.log"}
    assert system["shell"]["options"]["output"] == {"mode": "append", "stdout": log, "stderr": log}


def test_dependencies_are_the_tasks_that_are_waited_for(tmp_path):
    made, _ = _jobspecs(request(tmp_path, after=[("fA", None), ("fB,fC", 1)]), 0.0)
    assert made["attributes"]["system"]["dependencies"] == [
        {"scheme": "afterok", "value": "fA"},
        {"scheme": "afterok", "value": "fC"},
    ]


def test_a_dependency_without_a_job_is_an_error(tmp_path):
    with pytest.raises(WorkerStartError, match="a dependency of a detached job was not submitted"):
        _jobspecs(request(tmp_path, after=[("fA,", 1)]), 0.0)


def test_a_template_is_the_program_of_each_rank(tmp_path):
    (tmp_path / "0123").mkdir()
    made = _jobspecs(request(tmp_path, submission_template="#!/bin/sh\nmodule load gcc\n{{command}}\n"), 0.0)
    assert made[1]["tasks"][0]["command"] == [f"{tmp_path}/0123/job.sh", "1"]
    script = tmp_path / "0123" / "job.sh"
    assert script.read_text() == '#!/bin/sh\nmodule load gcc\npython run.py "$1"\n'
    assert script.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"priority": 40}, "it is the urgency of a job, at most 31"),
        ({"flux_log_files": True}, "pympipool jobs logs"),
        ({"submission_template": "#!/bin/sh\n"}, "has no {{command}}"),
        ({"command_line_argument_lst": ("--x",)}, "backend 'flux' takes none"),
    ],
    ids=str,
)
def test_what_flux_does_not_have_is_refused(resources, message):
    with pytest.raises(ValueError, match=message):
        check(Resources(**resources))


RECORDS = SimpleNamespace(submissions=lambda: [SimpleNamespace(id="0123", job="fA")])


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A scheduler whose handle of flux is a number."""
    monkeypatch.setattr(detached_flux, "size_of_instance", lambda: SimpleNamespace(durations=None))
    monkeypatch.setitem(sys.modules, "flux", SimpleNamespace(Flux=lambda *_: 7))
    return FluxScheduler(RECORDS, str(tmp_path))


def test_flux_is_asked_after_its_answer(scheduler, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(
        detached_flux, "ServiceThread", lambda name, run: ServiceThread(name, lambda: (run(), gate.wait(60)))
    )
    assert [scheduler._ask(str) for _ in range(2)] == ["7", "7"]
    gate.set()


def test_flux_that_hangs_is_not_asked(scheduler):
    gate = threading.Event()
    with pytest.raises(WorkerStartError, match="flux does not answer within 0"):
        scheduler._ask(lambda _: gate.wait(60), 0.01)
    with pytest.raises(WorkerStartError, match="flux still does not answer"):
        scheduler._ask(str)
    gate.set()


@pytest.fixture
def scheduler_elsewhere(scheduler, tmp_path, monkeypatch):
    """A scheduler whose job was submitted on another host."""
    handle = SimpleNamespace(attr_get=lambda _: "local:///own")
    monkeypatch.setitem(sys.modules, "flux", SimpleNamespace(Flux=lambda *_: handle))
    for name in ("look", "cancel"):
        monkeypatch.setattr(detached_flux.flux_jobs, name, lambda *_: {})
    spool = Spool(str(tmp_path / "detached"), "0123")
    (tmp_path / "detached" / "0123").mkdir(parents=True)
    spool.write_instance("node7.invalid", "local:///tmp/flux/local-0")
    asked = []

    def ask(uri, *_):
        asked.append(uri)
        raise WorkerStartError("no such host")

    monkeypatch.setattr(detached_flux.flux_elsewhere, "ask", ask)
    return scheduler, asked


def test_unreached_host_is_left_alone_for_a_while(scheduler_elsewhere):
    scheduler, asked = scheduler_elsewhere
    for _ in range(2):
        (state,) = scheduler.states(["fA"]).values()
        assert state.state is State.UNKNOWN
        assert "another one, on node7.invalid, cannot be asked (no such host)" in state.words
    assert asked == ["ssh://node7.invalid/tmp/flux/local-0"]


@pytest.mark.parametrize("tasks", [None, [0]])
def test_a_job_of_another_host_counts_as_running(scheduler_elsewhere, tasks):
    with pytest.raises(WorkerStartError, match=r"job fA is not cancelled: .*, on node7.invalid, cannot be asked"):
        scheduler_elsewhere[0].cancel("fA", tasks)


def test_ended_instance_of_another_host_is_gone(scheduler_elsewhere, monkeypatch):
    def ask(uri, *_):
        raise FileNotFoundError(uri)

    monkeypatch.setattr(detached_flux.flux_elsewhere, "ask", ask)
    (state,) = scheduler_elsewhere[0].states(["fA"]).values()
    assert state.state is State.LOST


def test_last_answer_of_a_failing_host_counts(scheduler_elsewhere, monkeypatch):
    """A network that fails for some seconds ends no call."""
    scheduler, _ = scheduler_elsewhere
    running = TaskState(State.RUNNING, "RUN")
    monkeypatch.setattr(detached_flux, "ELSEWHERE_PAUSE_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(detached_flux.flux_elsewhere, "ask", lambda uri, name, jobs: dict.fromkeys(jobs, running))
        assert list(scheduler.states(["fA"]).values()) == [running]
    assert list(scheduler.states(["fA"]).values()) == [running]
    assert "node7.invalid/tmp/flux/local-0 has answered before, and does not any more" in scheduler.problem
    with pytest.raises(WorkerStartError, match="job fA is not cancelled"):
        scheduler.cancel("fA", None)


def test_last_answer_of_a_silent_host_ends(scheduler_elsewhere, monkeypatch):
    """The allocation of the instance may have ended, and its node refuses ssh for good."""
    scheduler, asked = scheduler_elsewhere
    answers = [State.RUNNING, State.RUNNING]

    def ask(uri, name, jobs):
        asked.append(uri)
        if not answers:
            raise WorkerStartError("connection refused")
        return dict.fromkeys(jobs, TaskState(answers.pop()))

    def look(at_s):
        monkeypatch.setattr(detached_flux, "monotonic", lambda: at_s)
        (state,) = scheduler.states(["fA"]).values()
        return state.state, len(asked)

    monkeypatch.setattr(detached_flux.flux_elsewhere, "ask", ask)
    found = [look(at_s) for at_s in (1000.0, 1001.0, 1031.0, 1062.0, 1063.0, 1073.0, 1074.0, 1094.0)]
    assert [count for _, count in found] == [1, 1, 2, 3, 3, 4, 4, 5]
    assert {state for state, _ in found} == {State.RUNNING}
    assert "ssh://node7.invalid/tmp/flux/local-0 has answered before" in scheduler.problem
    assert [look(at_s) for at_s in (1135.0, 1216.0, 1330.0)] == [(State.RUNNING, count) for count in (6, 7, 7)]
    assert look(1332.0) == (State.UNKNOWN, 8), "it is asked before the call fails"
    assert [look(at_s) for at_s in (1343.0, 1354.0)] == [(State.UNKNOWN, count) for count in (9, 10)]
    assert scheduler.problem == ""


def test_late_files_of_instances_are_read_again(scheduler, tmp_path):
    job, spool = Job("fA", "pympipool-0123"), Spool(str(tmp_path / "detached"), "0123")
    assert scheduler._instance(job) == ("", "")
    (tmp_path / "detached" / "0123").mkdir(parents=True)
    spool.write_instance("node7.invalid", "local:///x")
    assert scheduler._instance(job) == ("node7.invalid", "local:///x")


def test_lost_submissions_of_other_hosts_are_found(scheduler_elsewhere, monkeypatch):
    scheduler, _ = scheduler_elsewhere
    monkeypatch.setattr(detached_flux.flux_jobs, "find", lambda *_: {})
    monkeypatch.setattr(scheduler._records, "submission", lambda _: SimpleNamespace(tasks=2), raising=False)
    with pytest.raises(WorkerStartError, match=r"the jobs of 0123 cannot be looked for: .* cannot be asked"):
        scheduler.find("0123")
    at_s = time.monotonic() + 302
    monkeypatch.setattr(detached_flux, "monotonic", lambda: at_s)
    assert scheduler.find("0123") is None
    found = {Job("fB", "pympipool-0123"): TaskState(State.WAITING, "1")}
    monkeypatch.setattr(detached_flux.flux_elsewhere, "ask", lambda uri, name, jobs: found if name == "find" else {})
    at_s += 20
    assert scheduler.find("0123") == ",fB"


def test_a_refused_question_loses_no_submission(scheduler, monkeypatch):
    def refuse(*_):
        raise FileNotFoundError(2, "one of them is gone")

    monkeypatch.setattr(detached_flux.flux_jobs, "find", refuse)
    monkeypatch.setitem(sys.modules, "flux", SimpleNamespace(Flux=lambda: SimpleNamespace(attr_get=str)))
    with pytest.raises(WorkerStartError, match="flux does not tell its jobs: one of them is gone"):
        scheduler.find("0123")


@pytest.mark.parametrize(("error", "has_ended"), [(ConnectionRefusedError, True), (OSError, False)])
def test_only_an_ended_instance_has_no_submissions(scheduler, monkeypatch, error, has_ended):
    def refuse():
        raise error(24, "made up")

    monkeypatch.setattr(scheduler._records, "submission", lambda _: None, raising=False)
    monkeypatch.setitem(sys.modules, "flux", SimpleNamespace(Flux=refuse))
    if has_ended:
        assert scheduler.find("0123") is None
    else:
        with pytest.raises(WorkerStartError, match="flux cannot be asked for its jobs: made up"):
            scheduler.find("0123")
