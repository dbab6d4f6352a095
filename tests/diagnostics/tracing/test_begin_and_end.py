"""Start and stop of traces: nested traces, exceptions, Ctrl-C, forks, missing folders, full disks, damaged files."""

import errno
import json
import logging
import os
import resource
import signal

import pytest

from pympipool import Executor, trace
from pympipool.diagnostics.tracing.load import read
from support.calls import square
from support.scripts import Script, run_script


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.json"


def run_one(exe=None):
    if exe is not None:
        return exe.submit(square, 2).result()
    with Executor(max_workers=1, block_allocation=True) as own:
        return run_one(own)


@pytest.fixture(scope="module")
def exe():
    with Executor(max_workers=1, block_allocation=True) as exe:
        yield exe


def test_only_one_trace_records_at_a_time(exe, file):
    with trace(file):
        with pytest.raises(RuntimeError, match=r"trace\('.*run.json'\) records already, and there can be one"), trace():
            pass
        run_one(exe)
    assert len(read(file).calls) == 1
    with trace() as after:
        run_one(exe)
    assert len(after.timeline.calls) == 1


def test_trace_can_be_restarted_after_its_end(exe, file):
    again = trace(file)
    for calls in (1, 2):
        with again:
            with pytest.raises(RuntimeError, match="records already"):
                again.start()
            for _ in range(calls):
                run_one(exe)
        assert len(read(file).calls) == calls


def test_start_and_stop_without_a_block(exe, file):
    seen = trace(file)
    with pytest.raises(RuntimeError, match="nothing to show"):
        seen.report()
    seen.start()
    run_one(exe)
    assert not file.exists()
    timeline = seen.stop()
    assert read(file) == timeline == seen.timeline
    with pytest.raises(RuntimeError, match="does not record"):
        seen.stop()


def test_trace_decorates_functions(exe, file):
    @trace(file)
    def decorated(n):
        """Docstring."""
        return [run_one(exe) for _ in range(n)]

    for calls in (2, 3):
        assert decorated(calls) == [4] * calls
        assert len(read(file).calls) == calls
    assert decorated.__doc__ == "Docstring."


def test_trace_without_calls_writes_a_file(file):
    with trace(file) as seen:
        pass
    assert read(file).calls == []
    assert "0 calls" in seen.report()


def test_file_is_written_after_an_exception(exe, file):
    with pytest.raises(ZeroDivisionError), trace(file):
        run_one(exe) / 0
    assert len(read(file).calls) == 1


def test_compressed_file_has_the_same_timeline(exe, file):
    compressed = file.with_suffix(".json.gz")
    with trace(compressed) as seen:
        run_one(exe)
    assert compressed.read_bytes().startswith(b"\x1f\x8b")
    assert read(compressed) == seen.timeline


@pytest.mark.parametrize(
    ("path", "error", "what"),
    [
        ("nowhere/run.json", FileNotFoundError, "there is no folder '.*nowhere'"),
        (".", IsADirectoryError, "that is a folder; give the name of a file"),
    ],
)
def test_unwritable_path_raises_at_the_start(tmp_path, path, error, what):
    with pytest.raises(error, match=what), trace(tmp_path / path):
        pytest.fail("the block must not begin")
    with trace():
        pass


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"path": 3}, TypeError, "path is 3; it must be the name of a file"),
        ({"max_calls": 0}, ValueError, "max_calls is 0; it must be at least 1"),
        ({"max_calls": "many"}, TypeError, "max_calls is 'many'; it must be an integer"),
    ],
)
def test_wrong_arguments_raise_errors_that_name_them(arguments, error, what):
    with pytest.raises(error, match=what):
        trace(**arguments)


@pytest.fixture
def full_disk():
    """Limit the size of this process's files to a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    caught = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))

    def empty():
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield fill, empty
    empty()
    signal.signal(signal.SIGXFSZ, caught)


def test_full_disk_loses_no_records(exe, file, full_disk):
    fill, empty = full_disk
    file.write_text("earlier content")
    seen = trace(file)
    seen.start()
    run_one(exe)
    fill()
    with pytest.raises(OSError, match=r"could not be written .* what was recorded is still there") as raised:
        seen.stop()
    empty()
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(file.parent) == ["run.json"]
    assert file.read_text() == "earlier content"
    seen.write(file)
    assert read(file) == seen.timeline
    assert len(seen.timeline.calls) == 1


def test_exception_of_block_hides_full_disk_error(exe, file, full_disk, caplog):
    fill, empty = full_disk

    def block():
        with trace(file):
            run_one(exe)
            fill()
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "pympipool.trace"), pytest.raises(ZeroDivisionError):
        block()
    empty()
    assert "could not be written" in caplog.text


# ---- whole programs ----

START = """
import os, signal, sys, time
from pathlib import Path
from pympipool import Executor, trace

signal.signal(signal.SIGINT, signal.default_int_handler)

def work():
    Path("begun").write_text("x")  # a named pipe
    time.sleep(1000)
"""


@pytest.mark.parametrize("outer", ["trace", "executor"])
def test_file_is_written_after_ctrl_c(tmp_path, outer):
    blocks = ["trace('run.json')", "Executor(max_workers=1, block_allocation=True) as exe"]
    if outer == "executor":
        blocks.reverse()
    program = f"""
with {", ".join(blocks)}:
    exe.submit(pow, 2, 3).result()
    begun, waits = exe.submit(work), exe.submit(pow, 2, 4)
    Path("begun").read_text()
    print("begun", flush=True)
    begun.result()
"""
    os.mkfifo(tmp_path / "begun")
    with Script(START + program, tmp_path) as script:
        script.wait_for_line("begun")
        script.wait_until_asleep()
        script.process.send_signal(signal.SIGINT)
        _, _, stderr = script.end()
        assert "KeyboardInterrupt" in stderr
        assert script.survivors() == []
    calls = read(tmp_path / "run.json").calls
    assert [call.name for call in calls] == ["pow", "work", "pow"]
    ends = ["lost", "cancelled"] if outer == "trace" else ["unfinished", "unfinished"]
    assert [call.outcome for call in calls] == ["returned", *ends]


def test_running_trace_is_written_at_exit(tmp_path):
    run_script(
        START
        + """
exe = Executor(max_workers=1, block_allocation=True)
trace("run.json").start()
exe.submit(pow, 2, 3).result()
""",
        tmp_path,
    )
    assert [call.outcome for call in read(tmp_path / "run.json").calls] == ["returned"]


def test_forked_child_writes_no_file(tmp_path):
    run_script(
        START
        + """
with trace("run.json"):
    with Executor(max_workers=1, block_allocation=True) as exe:
        exe.submit(pow, 2, 3).result()
        child = os.fork()
    if child == 0:
        with Executor(max_workers=1, block_allocation=True) as exe, trace("child.json"):
            exe.submit(pow, 2, 3).result()
            exe.submit(pow, 2, 4).result()
    else:
        assert os.waitpid(child, 0)[1] == 0
        assert not Path("run.json").exists()
if child == 0:
    os._exit(0)
""",
        tmp_path,
    )
    assert len(read(tmp_path / "run.json").calls) == 1
    assert len(read(tmp_path / "child.json").calls) == 2


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is no trace: "),
        ("[]", "is no trace of pympipool"),
        ('{"traceEvents": []}', "is no trace of pympipool"),
        (
            '{"traceEvents": [], "pympipool": {"format": 99, "version": "3.0"}}',
            "has format 99, written by pympipool 3.0",
        ),
        ('{"traceEvents": [], "pympipool": {"format": 2}}', "is damaged: KeyError"),
    ],
)
def test_reading_a_file_of_other_content_raises(file, content, what):
    file.write_text(content)
    with pytest.raises(ValueError, match=what):
        read(file)


def test_reading_a_truncated_file_raises(exe, file):
    for name in (file, file.with_suffix(".json.gz")):
        with trace(name):
            run_one(exe)
        name.write_bytes(name.read_bytes()[:-40])
        with pytest.raises(ValueError, match="is no trace: "):
            read(name)


def test_file_header_has_format_and_executors(exe, file):
    with trace(file):
        run_one(exe)
    header = json.loads(file.read_text())["pympipool"]
    assert header["format"] == 2
    assert header["dropped"] == 0
    assert header["executors"][0]["info"]["block_allocation"] is True
