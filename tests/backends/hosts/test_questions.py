"""What the login on a host prints, reads and starts does not keep pympipool from asking the host. A script stands in for ssh."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.hosts import questions
from pympipool.backends.hosts.shells import Ssh
from pympipool.errors import WorkerStartError
from pympipool.resources import Host
from support.calls import square

HOST = "elsewhere"


@pytest.fixture
def login(tmp_path, monkeypatch):
    """Return a function that takes what a login does before the program that ssh starts."""

    def make(commands):
        ssh = tmp_path / "ssh"
        ssh.write_text(f'#!/bin/bash\ncd {tmp_path}\n{commands}\neval "${{@: -1}}"\n')
        ssh.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return make


@contextmanager
def limit(monkeypatch, seconds):
    with monkeypatch.context() as context:
        context.setattr(questions, "ANSWER_TIMEOUT_S", seconds)
        yield


def ask():
    """Ask the host, and leave no process."""
    before = psutil.Process().children()  # a resource tracker of multiprocessing, for example
    try:
        return questions.ask([Host(HOST)], Ssh())[HOST]
    finally:
        assert [process for process in psutil.Process().children() if process not in before] == []


def problem():
    with pytest.raises(WorkerStartError) as error:
        ask()
    return str(error.value)


@pytest.mark.parametrize(
    "prints",
    ["echo Welcome", "printf Welcome", "echo Beware >&2", "head -c 3000000 /dev/zero | tr '\\0' x", r"printf '\377\n'"],
    ids=["line", "no end of line", "stderr", "much", "no text"],
)
def test_what_a_login_prints_is_no_answer(login, prints):
    login(prints)
    assert ask().cores >= 1


def test_answer_does_not_wait_for_programs_of_logins(login, monkeypatch, tmp_path):
    login("sleep 600 & echo $! >started")
    try:
        with limit(monkeypatch, 3600.0):
            assert ask().cores >= 1
    finally:
        os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)


def test_reason_is_told_despite_programs_of_logins(login, monkeypatch, tmp_path):
    login("sleep 600 & echo $! >started; echo no licence >&2; exit 1")
    try:
        with limit(monkeypatch, 3.0):
            assert "no licence" in problem()
    finally:
        os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("reads", ["read answer", "cat >/dev/null", "read a; read b"])
def test_login_that_reads_input_is_told(login, reads):
    login(reads)
    assert f"the login on host {HOST} reads the input" in problem()


@pytest.mark.parametrize("commands", ["exec sleep 600", "exec yes"])
def test_login_that_does_not_end_is_given_up(login, monkeypatch, commands):
    login(f"echo Choose: >&2; {commands}")
    with limit(monkeypatch, 3.0):
        said = problem()
    assert f"host {HOST} has not answered within 3 s: Choose:; try `ssh {HOST} true`" in said


def test_silent_host_keeps_no_other_one_from_answering(login, monkeypatch):
    login('case "$*" in *" -- slow "*) exec sleep 600;; esac; head -c 3000000 /dev/zero')
    with limit(monkeypatch, 10.0), pytest.raises(WorkerStartError) as error:
        questions.ask([Host("slow"), Host(HOST)], Ssh())
    assert "host slow has not answered" in str(error.value)
    assert HOST not in str(error.value)


def test_interrupted_question_leaves_no_process(login):
    login("kill -INT $PPID; exec sleep 600")
    with pytest.raises(KeyboardInterrupt):
        ask()


def test_interrupt_that_comes_with_the_answers_is_raised(monkeypatch):
    # The handler of the signal runs in the main thread, when the thread that asks has ended.
    monkeypatch.setattr(questions, "_ask_all", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ask()


def test_executor_uses_a_host_with_such_a_login(login, tmp_path):
    login("printf Welcome; echo Beware >&2; sleep 600 & echo $! >>started")
    try:
        with Executor(hosts=[f"{HOST}:2"]) as exe:
            assert list(exe.map(square, range(4))) == [0, 1, 4, 9]
    finally:
        for pid in (tmp_path / "started").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
