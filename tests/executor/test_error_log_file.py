"""`error_log_file`: the worker logs failed calls with their arguments; the exception still reaches the caller."""

import os
import re

import numpy as np
import pytest

from pympipool import Executor
from support.calls import divide, echo, fail

pytestmark = [
    pytest.mark.anywhere,
    pytest.mark.only_at("this machine", "tcp", "flux", reason="slurm/test_two_hosts.py has the file of another host"),
]

ENTRY = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (\S+)\(\) failed in (.+)$", re.MULTILINE)


class Wordless:
    def __repr__(self):
        raise ValueError("no words")


def refuse(*values, **named):
    raise ValueError("refused")


def leave():
    raise SystemExit("leaving")


def scale(x, factor):
    return divide(x, factor)


def zero():
    return {"factor": 0}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "errors.log"


def entries(log):
    return ENTRY.findall(log.read_text())


def test_failed_call_is_logged_with_arguments_and_traceback(make_executor, log):
    exe = make_executor(error_log_file=log)
    with pytest.raises(ZeroDivisionError):
        exe.submit(divide, 7, y=0).result()
    text = log.read_text()
    ((name, where),) = entries(log)
    assert name == "divide"
    assert re.fullmatch(r"worker \d+ \(host \S+, pid \d+\)", where)
    assert "\n    argument 1: 7\n    y: 0\nTraceback (most recent call last):\n" in text
    assert "in divide\n    return x / y" in text
    assert "ZeroDivisionError: division by zero\n" in text
    assert "errorlog.py" not in text  # the traceback begins with the user's code


def test_error_log_does_not_change_the_exception(make_executor, log):
    with_log, without = make_executor(error_log_file=log), make_executor()
    told = []
    for exe in (with_log, without):
        error = exe.submit(fail, "some words").exception()
        told.append((type(error), str(error), re.sub(r"\d+", "N", str(error.__cause__))))
    assert told[0] == told[1]


def test_successful_calls_are_not_logged(make_executor, log):
    exe = make_executor(error_log_file=log)
    assert exe.submit(echo, 3).result() == 3
    assert list(exe.map(echo, range(100 if exe.info["block_allocation"] else 3)))[2] == 2
    assert not log.exists()


def test_concurrent_entries_are_appended_without_mixing(make_executor, many, log):
    log.write_text("what was there before\n")
    exe = make_executor(max_workers=2, error_log_file=str(log))
    count = many(400, 10)
    calls = [exe.submit(refuse, i) for i in range(count)]
    assert all(isinstance(call.exception(), ValueError) for call in calls)
    text = log.read_text()
    assert text.startswith("what was there before\n")
    assert len(entries(log)) == count
    assert sorted(map(int, re.findall(r"\n    argument 1: (\d+)\nTraceback", text))) == list(range(count))
    assert text.count("ValueError: refused\n\n") == count


def test_failed_map_call_is_logged_with_own_arguments(make_executor, log):
    exe = make_executor(error_log_file=log)
    for chunksize in (None, 4):
        with pytest.raises(ZeroDivisionError):
            list(exe.map(divide, range(8), [1, 1, 1, 0, 1, 1, 1, 1], chunksize=chunksize))
    assert [name for name, _ in entries(log)] == ["divide", "divide"]
    assert log.read_text().count("\n    argument 1: 3\n    argument 2: 0\n") == 2


def test_system_exit_of_a_call_is_logged(make_executor, log):
    exe = make_executor(error_log_file=log)
    assert isinstance(exe.submit(leave).exception(), SystemExit)
    assert "SystemExit: leaving\n" in log.read_text()


def test_each_call_can_have_its_own_file(tmp_path, opened):
    opened.append(exe := Executor(max_workers=1, error_log_file=tmp_path / "all.log"))
    assert exe.submit(fail, resource_dict={"error_log_file": tmp_path / "own.log"}).exception()
    assert exe.submit(divide, 1, 0).exception()
    assert exe.submit(fail, resource_dict={"error_log_file": None}).exception()
    assert [name for name, _ in entries(tmp_path / "own.log")] == ["fail"]
    assert [name for name, _ in entries(tmp_path / "all.log")] == ["divide"]


def test_large_arguments_are_abbreviated(make_block_executor, log):
    exe = make_block_executor(error_log_file=log)
    large = [
        np.zeros(10**6),
        "x" * 10**6,
        b"y" * 10**6,
        list(range(10**6)),
        {i: i for i in range(10**5)},
        bytearray(10**6),
    ]
    assert exe.submit(refuse, *large, *range(100), w=Wordless()).exception()
    text = log.read_text()
    assert len(text) < 10_000
    assert "argument 1: array([0., 0., 0., ..., 0., 0., 0.]" in text
    assert "... (1000000 bytes)" in text
    assert "    and 57 arguments more\n" in text


def test_failing_repr_is_reported(make_block_executor, log):
    exe = make_block_executor(error_log_file=log)
    assert isinstance(exe.submit(refuse, Wordless(), "next").exception(), ValueError)
    assert re.search(r"argument 1: <Wordless .*>\n    argument 2: 'next'\n", log.read_text())


def test_unwritable_file_keeps_the_exception(make_executor, tmp_path, capfd):
    folder = tmp_path / "folder"
    folder.mkdir()
    exe = make_executor(error_log_file=folder / "errors.log")
    folder.rmdir()
    with pytest.raises(ZeroDivisionError):
        exe.submit(divide, 1, 0).result()
    exe.shutdown()
    assert f"pympipool: error_log_file {folder}/errors.log cannot be written" in capfd.readouterr().err


def test_init_function_values_do_not_shadow_the_option(make_block_executor, log):
    exe = make_block_executor(init_function=zero, error_log_file=log)
    assert isinstance(exe.submit(scale, 3).exception(), ZeroDivisionError)
    assert [name for name, _ in entries(log)] == ["scale"]


@pytest.mark.mpi
def test_each_rank_writes_an_entry(make_executor, log):
    exe = make_executor(cores_per_worker=2, error_log_file=log)
    assert isinstance(exe.submit(fail).exception(), ValueError)
    assert sorted(where.split(" of ")[0] for _, where in entries(log)) == ["rank 0", "rank 1"]


def test_child_processes_do_not_inherit_log_settings(make_executor, log):
    exe = make_executor(error_log_file=log)
    assert [name for name in exe.submit(dict, os.environ).result() if "ERROR_LOG" in name] == []
    seen = exe.submit(eval, "dict(__import__('os').environ)").result()
    assert [name for name in seen if name.startswith("PYMPIPOOL") and name not in os.environ] == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such/folder/errors.log", "cannot be made: /no/such/folder does not exist"),
        ("/tmp", "which is a directory"),
    ],
)
def test_impossible_file_raises_immediately(path, words):
    with pytest.raises(ValueError, match=f"error_log_file is .*{words}"):
        Executor(error_log_file=path)


@pytest.mark.parametrize("wrong", [1, True, b"errors.log", ["errors.log"]])
def test_non_path_raises_immediately(wrong):
    with pytest.raises(TypeError, match="error_log_file is"):
        Executor(error_log_file=wrong)
