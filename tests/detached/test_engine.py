"""What a detached call takes from its script at the moment of `submit`."""

import importlib
import os

import pytest

from pympipool.caching import modules
from support.calls import square
from support.waiting import wait_until


def test_a_job_runs_where_submit_was_called(exe, scheduler, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    going_on = []
    exe._engine._watcher._mailbox.post(lambda: wait_until(lambda: going_on))  # the job is submitted later
    monkeypatch.chdir(folders[0])
    exe.submit(square, 3)
    exe.map(square, [4])
    os.chdir(folders[1])
    going_on.append(True)
    wait_until(lambda: len(scheduler.requests) == 2)
    for request in scheduler.requests.values():
        assert request.cwd == request.spool.read_common()["cwd"] == str(folders[0])


def test_shutdown_cancels_what_was_just_submitted(exe):
    engine = exe._engine
    engine._watcher._mailbox.post(lambda: wait_until(lambda: not engine.is_open))  # until then it does not see the call
    call = exe.submit(square, 3)
    exe.shutdown(wait=False, cancel_futures=True)
    wait_until(call.cancelled)


def test_the_given_folder_belongs_to_the_key(exe, scheduler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    keys = [exe.submit(square, 3, resource_dict=one).cache_entry.key for one in ({}, {"cwd": "."}, {"cwd": "runs"})]
    assert len(set(keys)) == 3
    monkeypatch.chdir("runs")  # where the script runs does not count
    assert exe.submit(square, 3).cache_entry.key == keys[0]
    assert exe.submit(square, 3, resource_dict={"cwd": "."}).cache_entry.key == keys[2]
    wait_until(lambda: len(scheduler.requests) == 3)


def test_a_removed_folder_is_named(exe, scheduler, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match="change to another one"):
        exe.submit(square, 3)


def test_modules_count_as_they_are_now(exe, scheduler, tmp_path, monkeypatch):
    """A job imports them when it starts, whatever they were when the executor was made."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "written_late.py").write_text("def f(x):\n    return 1\n")
    late = importlib.import_module("written_late")
    keys = [exe.submit(late.f, 1).cache_entry.key]
    (tmp_path / "written_late.py").write_text("def f(x):\n    return 22\n")
    modules.version_of_files(now=True)
    keys.append(exe.submit(late.f, 1).cache_entry.key)
    assert keys[0] != keys[1]
