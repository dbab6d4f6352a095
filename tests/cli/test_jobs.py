"""`pympipool jobs`: what it lists, cancels and shows."""

import contextlib
import json
import sqlite3

import pytest

from pympipool.cli import main
from support.detached_project import project  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

SUBMIT = """
exe = executor(max_workers=1)
done = exe.submit(square, 3)
calls = exe.map(held, range(4), chunksize=2)
bad = exe.submit(fails, 1)
"""


def jobs(project, *arguments):  # noqa: F811
    return main(["jobs", *arguments, "-d", str(project.folder / "cache")])


def listed(project, capsys):  # noqa: F811
    assert jobs(project, "list", "--json") == 0
    return {one["function"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}


def test_jobs_are_listed_shown_and_cancelled(project, capsys):  # noqa: F811
    project.run(SUBMIT + "done.result(); exe.shutdown(wait=False)")
    project.wait_for_runs(2)
    found = listed(project, capsys)
    assert {name: found["held"][name] for name in ("calls", "running", "waiting", "scheduler")} == {
        "calls": 4,
        "running": 2,
        "waiting": 2,
        "scheduler": "local",
    }
    assert found["fails"]["waiting"] == 1
    assert jobs(project, "list") == 0
    assert "held()  4 calls: 2 running, 2 waiting" in capsys.readouterr().out
    assert jobs(project, "logs", found["held"]["id"][:6]) == 0
    assert capsys.readouterr().out == "0: holding 0\n"
    assert jobs(project, "logs", found["held"]["id"], "--task", "0") == 0
    assert capsys.readouterr().out == "holding 0\n"
    assert jobs(project, "cancel", "--all") == 0
    assert f"{found['held']['id'][:12]}: 4 calls cancelled" in capsys.readouterr().out
    assert listed(project, capsys) == {}
    assert project.submissions() == []
    project.open_gate()
    assert project.run(SUBMIT + "print(done.result(), list(calls))") == "9 [0, 1, 2, 3]\n"


def test_a_job_that_stays_keeps_no_other_running(project, capsys, monkeypatch):  # noqa: F811
    project.run("exe = executor(max_workers=2); exe.submit(held, 1); exe.submit(held, 2); exe.shutdown(wait=False)")
    project.wait_for_runs(2)
    first, second = (path.name for path in project.submissions())
    change_scheduler(project, first, "slurm")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # without scancel
        assert jobs(project, "cancel", "--all") == 1
    told = capsys.readouterr()
    assert f"{first[:12]}: backend 'slurm' cannot be used" in told.err
    assert told.out == f"{second[:12]}: 1 call cancelled\n"
    change_scheduler(project, first, "local")
    assert jobs(project, "cancel", "--all") == 0
    assert project.submissions() == []


def change_scheduler(project, submission, name):  # noqa: F811
    records = sqlite3.connect(project.folder / "cache" / "detached" / "jobs.sqlite", timeout=60)
    with contextlib.closing(records), records:
        records.execute("UPDATE submissions SET scheduler = ? WHERE id = ?", (name, submission))


def test_a_cancelled_job_keeps_its_results(project, capsys):  # noqa: F811
    submit = "exe = executor(max_workers=1); calls = exe.map(square, range(3)); last = exe.submit(held, 7); "
    project.run(submit + "exe.shutdown(wait=False)")
    project.wait_for_runs(4)
    assert jobs(project, "cancel", "--all") == 0
    assert "0 calls cancelled" in capsys.readouterr().out
    project.open_gate()
    assert project.run(submit + "print(list(calls), last.result())") == "[0, 1, 4] 7\n"
    assert project.ran() == ["0", "1", "2", "7", "7"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel"], "name submissions, or --all"),
        (["cancel", "abc", "--all"], "name submissions, or --all"),
        (["logs", "zzz"], "0 submissions have the id 'zzz'"),
    ],
)
def test_wrong_arguments_are_errors(project, capsys, arguments, words):  # noqa: F811
    project.run("executor().shutdown()")
    assert jobs(project, *arguments) == 1
    assert words in capsys.readouterr().err


def test_a_directory_without_jobs_is_an_error(tmp_path, capsys):
    assert main(["jobs", "list", "-d", str(tmp_path)]) == 1
    assert "has no jobs" in capsys.readouterr().err
