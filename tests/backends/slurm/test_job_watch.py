"""Which jobs SLURM's controller is asked for, and which are cancelled. Fake programs stand for SLURM's."""

from __future__ import annotations

import os

import pytest

from pympipool.backends.slurm import job_watch
from pympipool.backends.slurm.job_watch import JobWatch
from support.waiting import wait_until


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A controller whose answers are a script. `calls` returns what it was asked, `answer` sets its jobs."""

    class Controller:
        def answer(self, *lines, code=0):
            (tmp_path / "next").write_text("".join(f"echo '{line}'\n" for line in lines) + f"exit {code}\n")
            (tmp_path / "next").rename(tmp_path / "answer")  # a whole one at any moment

        def calls(self, program):
            lines = (tmp_path / "calls").read_text().splitlines()
            return [line for line in lines if line.startswith(program)]

    (tmp_path / "calls").touch()
    for name, reply in (("squeue", f". {tmp_path}/answer"), ("scancel", "")):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n{reply}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S", "CANCEL_PAUSE_S"):
        monkeypatch.setattr(job_watch, name, 0.02)
    monkeypatch.setattr(job_watch, "FORGOTTEN_AFTER_S", 0.1)
    monkeypatch.setattr(job_watch, "NEVER_KNOWN_AFTER_S", 0.1)
    monkeypatch.setattr(job_watch, "CANCEL_PERIOD_S", 0.1)
    fake = Controller()
    fake.answer()
    return fake


@pytest.fixture
def jobs(controller):
    watch = JobWatch(steps=False)
    yield watch
    controller.answer()
    watch.close()


def test_waiting_job_starts_and_is_forgotten(controller, jobs):
    name = jobs.name(1)
    controller.answer(f"7 {name} PENDING")
    job = jobs.watch(name)
    wait_until(lambda: controller.calls("squeue"))
    assert not job.is_running
    controller.answer(f"7 {name} RUNNING")
    wait_until(lambda: job.is_running)
    assert not job.forgotten
    controller.answer()
    wait_until(lambda: job.forgotten)


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "QOSMaxWallDurationPerJobLimit"])
def test_job_with_too_much_time_never_starts(controller, jobs, reason):
    name = jobs.name(1)
    controller.answer(f"7 {name} PENDING ReqNodeNotAvail, UnavailableNodes:node2")
    job = jobs.watch(name)
    wait_until(lambda: job.was_listed)
    assert job.refusal == ""
    controller.answer(f"7 {name} PENDING {reason}")
    wait_until(lambda: job.refusal == reason)
    controller.answer(f"7 {name} RUNNING None")
    wait_until(lambda: job.is_running)
    assert job.refusal == ""


def test_job_listed_late_is_waited_for_longer(controller, jobs, monkeypatch):
    monkeypatch.setattr(job_watch, "NEVER_KNOWN_AFTER_S", 60.0)
    name = jobs.name(1)
    job = jobs.watch(name)
    wait_until(lambda: len(controller.calls("squeue")) > 20)
    assert not job.forgotten
    controller.answer(f"7 {name} PENDING")
    wait_until(lambda: job.was_listed)
    controller.answer()
    wait_until(lambda: job.forgotten)


def test_job_never_listed_is_forgotten(jobs):
    job = jobs.watch(jobs.name(1))
    wait_until(lambda: job.forgotten)


def test_silent_controller_forgets_no_job(controller, jobs):
    controller.answer(code=1)
    job = jobs.watch(jobs.name(1))
    wait_until(lambda: len(controller.calls("squeue")) > 20)
    assert not job.forgotten


def test_waiting_step_is_not_forgotten(controller):
    jobs = JobWatch(steps=True)
    job = jobs.watch(jobs.name(1))
    wait_until(lambda: len(controller.calls("squeue")) > 20)
    assert not job.forgotten
    controller.answer(f"7.0 {jobs.name(1)} RUNNING")
    wait_until(lambda: job.is_running)
    controller.answer()
    wait_until(lambda: job.forgotten)
    jobs.close()


def test_one_query_is_for_all_jobs(controller, jobs):
    names = [jobs.name(number) for number in range(50)]
    controller.answer(*(f"{number} {name} RUNNING" for number, name in enumerate(names)))
    watched = [jobs.watch(name) for name in names]
    wait_until(lambda: all(job.is_running for job in watched))
    assert len(controller.calls("squeue")) < len(names)


def test_connected_worker_causes_no_query(controller, jobs, monkeypatch):
    monkeypatch.setattr(job_watch, "FIRST_PAUSE_S", 60.0)
    jobs.watch(jobs.name(1))
    jobs.connected(jobs.name(1))
    jobs.ended(jobs.name(1))
    wait_until(lambda: jobs._thread is None)
    assert controller.calls("squeue") == []


def test_job_that_appears_late_is_cancelled(controller, jobs, monkeypatch):
    monkeypatch.setattr(job_watch, "CANCEL_PERIOD_S", 60.0)
    name = jobs.name(1)
    jobs.watch(name)
    jobs.cancel(name)
    wait_until(lambda: len(controller.calls("squeue")) > 3)
    controller.answer(f"7 {name} RUNNING", "8 pympipool-of-another-executor-1 RUNNING")
    wait_until(lambda: controller.calls("scancel"))
    assert controller.calls("scancel")[0] == "scancel --quiet 7"
    monkeypatch.setattr(job_watch, "CANCEL_PERIOD_S", 0.1)  # else the script that `close` starts would go on for long


def test_job_without_srun_is_cancelled_after_outage(controller, jobs):
    jobs.watch(jobs.name(1))
    jobs.connected(jobs.name(1))
    jobs.ended(jobs.name(1))  # and the controller crashes before it has noted that
    controller.answer(code=1)
    jobs.watch(jobs.name(2))
    wait_until(lambda: len(controller.calls("squeue")) > 2)
    controller.answer(f"7 {jobs.name(1)} RUNNING", f"8 {jobs.name(2)} RUNNING")
    wait_until(lambda: controller.calls("scancel"))
    assert set(controller.calls("scancel")) == {"scancel --quiet 7"}


def test_close_cancels_what_is_left(controller, monkeypatch):
    monkeypatch.setattr(job_watch, "FIRST_PAUSE_S", 60.0)
    jobs = JobWatch(steps=False)
    jobs.watch(jobs.name(1))
    controller.answer(f"7 {jobs.name(1)} RUNNING", "8 pympipool-of-another-executor-1 RUNNING")
    jobs.close()
    wait_until(lambda: controller.calls("scancel"))
    assert controller.calls("scancel")[0] == "scancel --quiet 7"
    controller.answer()
