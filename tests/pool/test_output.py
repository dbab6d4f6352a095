"""What workers print reaches the script's streams, whatever these do; nothing that workers or readers do stops the master."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pympipool import Executor
from pympipool.pool import output
from pympipool.pool.event_loop import EventLoop, Timer
from pympipool.pool.last_lines import LINE_CHARS_MAX, LastLines
from pympipool.pool.output import Output, OutputWriter
from support.scripts import script_environment
from support.waiting import wait_until

TIMEOUT_S = 120.0


@pytest.fixture
def loop():
    loop = EventLoop("tested_loop", at_exit=lambda: None)
    loop.start()
    yield loop
    loop.call(loop.stop)
    loop.thread.join(TIMEOUT_S)
    loop.close()


def test_one_timer_waits_for_a_thread(monkeypatch):
    class NoThread:
        def __init__(self, *_):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    class Loop:
        timers = ()

        def call_later(self, delay_s, function):
            self.timers = (*self.timers, Timer(function, None))
            return self.timers[-1]

    monkeypatch.setattr(output, "ServiceThread", NoThread)
    writer = OutputWriter("stdout", Loop())
    for _ in range(3):
        writer.put("a line\n")
    assert len(writer._loop.timers) == 1
    writer._loop.timers[0].run()
    assert len(writer._loop.timers) == 2


class Stuck:
    """A stream that takes nothing until it is told to."""

    def __init__(self):
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.written = []

    def write(self, text):
        self.begun.set()
        assert self.go_on.wait(TIMEOUT_S)
        self.written.append(text)

    def flush(self):
        pass


@contextlib.contextmanager
def stuck_stdout():
    """Replace sys.stdout; pytest would undo this between a fixture and its test."""
    stream = Stuck()
    with contextlib.redirect_stdout(stream):
        try:
            yield stream
        finally:
            stream.go_on.set()


def lines_of(*pieces):
    lines = deque(maxlen=20)
    last = LastLines(lines)
    for piece in pieces:
        last.add(piece)
    last.finish()
    return list(lines)


def say(text, times=1):
    for _ in range(times):
        print(text, end="")


def complain_and_die(text):
    sys.stderr.write(text)
    sys.stderr.flush()
    os._exit(1)


# ---- the last lines ----


@given(st.text("ab\r\n", max_size=60), st.lists(st.integers(0, 60)))
def test_last_lines_do_not_depend_on_pieces(text, cuts):
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    pieces = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert lines_of(*pieces) == lines_of(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("one\n\ntwo", ["one", "two"]),
        ("10%\r20%\r30%\nError\n", ["30%", "Error"]),
        ("10%\r20%\r", ["20%"]),
        ("a line of Windows\r\nanother\r\n", ["a line of Windows", "another"]),
        ("x" * LINE_CHARS_MAX, ["x" * LINE_CHARS_MAX]),
        ("x" * (LINE_CHARS_MAX + 1) + "\nend", ["x" * LINE_CHARS_MAX + "...", "end"]),
    ],
)
def test_last_lines_are_those_of_a_terminal(text, seen):
    assert lines_of(text) == seen


@pytest.mark.parametrize("piece", ["x" * 1000, "\r" + "x" * 999, "\r" * 1000])
def test_endless_line_is_not_kept(piece):
    last = LastLines(deque())
    for _ in range(100):
        last.add(piece)
    assert len(last._unfinished) <= LINE_CHARS_MAX + 2 or piece.isspace()


# ---- the writer ----


class Pieces(list):
    """A pipe that gives these pieces, one by one."""

    def read(self, _size):
        return self.pop(0) if self else b""

    def close(self):
        pass


@pytest.mark.parametrize(
    ("end_of_line", "written"),
    [("\n", "one\r\n\r\r\n50%\r\ufffd"), ("\r\n", "one\n\r\n50%\r\ufffd")],
    ids=["unix", "windows"],
)
def test_ends_of_lines_become_those_of_python(monkeypatch, end_of_line, written):
    monkeypatch.setattr(os, "linesep", end_of_line)
    texts = Pieces()
    texts.put = texts.append
    Output(Pieces([b"one\r", b"\n\r\r", b"\n50%\r", b"\xc3"]), texts, None, None).drain()
    assert "".join(texts) == written


def test_full_buffer_stops_reading_until_it_empties(loop, monkeypatch):
    with stuck_stdout() as stuck:
        monkeypatch.setattr(output, "BUFFER_CHARS", 1000)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        stdout = OutputWriter("stdout", loop)
        piped = Output(open(reader, "rb", buffering=0), stdout, None, loop)
        loop.call(piped.watch)
        sent = 0

        def fill():
            nonlocal sent
            try:
                while sent < 1 << 22:
                    sent += os.write(writer, b"x" * 1000)
            except BlockingIOError:
                pass

        os.write(writer, b"begin ")
        assert stuck.begun.wait(TIMEOUT_S)
        wait_until(lambda: (fill(), stdout.is_full and not piped._is_watched)[1])
        fill()
        before = stdout._queued
        assert before < 1 << 18  # a few reads
        stuck.go_on.set()
        wait_until(lambda: (fill(), sent)[1] >= 1 << 22)
        os.close(writer)
        wait_until(lambda: stdout._written == sent + len("begin "))
        closed = threading.Event()
        loop.call(lambda: (piped.drain(), closed.set()))
        assert closed.wait(TIMEOUT_S)
        stdout.close()
        assert "".join(stuck.written) == "begin " + "x" * sent


def test_exiting_worker_need_not_wait_for_reader(loop, monkeypatch):
    with stuck_stdout() as stuck:
        monkeypatch.setattr(output, "BUFFER_CHARS", 1000)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        stdout = OutputWriter("stdout", loop)
        piped = Output(open(reader, "rb", buffering=0), stdout, None, loop)
        loop.call(piped.watch)
        loop.call(piped.read_to_end)
        for _ in range(1000):
            os.write(writer, b"x" * 1000)  # would block without end
        os.close(writer)
        wait_until(lambda: stdout._queued == 1_000_000)
        stuck.go_on.set()
        loop.call(piped.drain)
        wait_until(lambda: piped.pipe is None)
        stdout.close()


def test_unread_output_of_ended_workers_is_bounded(loop, monkeypatch):
    with stuck_stdout() as stuck:
        monkeypatch.setattr(output, "DROP_CHARS", 1000)
        stdout = OutputWriter("stdout", loop)
        for _ in range(100):
            stdout.put("x" * 100)
        assert stdout._queued <= 1100
        stuck.go_on.set()
        wait_until(lambda: stdout._written == stdout._queued)
        stdout.put("end")
        stdout.close()
        text = "".join(stuck.written)
        assert text.endswith("characters of output were dropped: nothing took them]\nend")


def test_writer_goes_on_when_no_thread_starts(loop, capsys, monkeypatch):
    starts = []
    start = threading.Thread.start

    def refuse_twice(thread):
        starts.append(thread)
        if len(starts) <= 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(output, "THREAD_RETRY_S", 0.01)
    monkeypatch.setattr(threading.Thread, "start", refuse_twice)
    stdout = OutputWriter("stdout", loop)
    loop.call(lambda: stdout.put("printed"))
    wait_until(lambda: stdout._written)
    stdout.close()
    assert capsys.readouterr().out == "printed"


class Raising:
    """A stream that raises exceptions of every kind, then calls its executor, then works."""

    def __init__(self):
        self.errors = [SystemExit("no"), KeyboardInterrupt(), ValueError("closed")]
        self.executor = None
        self.written = []

    def write(self, text):
        self.written.append(text)
        if self.errors:
            raise self.errors.pop(0)
        if self.executor is not None:
            executor, self.executor = self.executor, None
            self.written.append(str(executor.submit(pow, 2, 3).result()))
            executor.shutdown()

    def flush(self):
        pass


def test_stream_may_raise_and_use_its_executor(monkeypatch):
    stream = Raising()
    monkeypatch.setattr("sys.stdout", stream)
    executor = Executor(backend="mpi", max_workers=1, block_allocation=True)
    for text in "abc":
        executor.submit(say, f"{text}\n").result()
        wait_until(lambda text=text: f"{text}\n" in stream.written)
    stream.executor = executor
    executor.submit(say, "d\n").result()
    wait_until(lambda: "8" in stream.written)
    executor.shutdown()
    monkeypatch.undo()
    assert "".join(stream.written) == "a\nb\nc\nd\n8"


def test_stuck_stdout_does_not_hide_stderr(capfd):
    with stuck_stdout() as stuck:
        with Executor(backend="mpi", max_workers=2, block_allocation=True) as executor:
            executor.submit(say, "never read\n").result()
            assert stuck.begun.wait(TIMEOUT_S)
            died = executor.submit(complain_and_die, "first\r" * 100_000 + "last words").exception(TIMEOUT_S)
            assert "last words" in str(died)
            assert executor.submit(pow, 2, 3).result(TIMEOUT_S) == 8
            stuck.go_on.set()
        assert "".join(stuck.written) == "never read\n"


# ---- scripts whose output nobody reads ----

BLOCKED = """
import signal, sys
from pympipool import Executor
def talk(times):
    for _ in range(times): print("x" * 99)
    return 1
if __name__ == "__main__":
    with Executor(backend="mpi", max_workers=2, block_allocation=sys.argv[1] == "block") as executor:
        executor.submit(talk, 1500).result()  # more than the pipe takes, less than the buffer
        assert executor.submit(pow, 2, 3).result() == 8
        if sys.argv[2] == "busy":
            executor.submit(talk, 100_000)
            signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("place", ["block", "call"])
@pytest.mark.parametrize("end", ["idle", "busy"])
def test_script_ends_though_its_output_is_unread(tmp_path, mark, place, end):
    path = tmp_path / "script.py"
    path.write_text(BLOCKED)
    reader, writer = os.pipe()
    script = subprocess.Popen(
        [sys.executable, str(path), place, end], stdout=writer, stderr=subprocess.PIPE, env=script_environment(mark)
    )
    os.close(writer)
    try:
        _, errors = script.communicate(timeout=TIMEOUT_S)
    finally:
        script.kill()
        os.close(reader)
    assert b"Fatal" not in errors
    assert script.returncode == 0 if end == "idle" else b"KeyboardInterrupt" in errors


def test_slow_reader_gets_everything(tmp_path, mark):
    path = tmp_path / "script.py"
    path.write_text(BLOCKED)
    script = subprocess.Popen(
        [sys.executable, str(path), "block", "idle"], stdout=subprocess.PIPE, env=script_environment(mark)
    )
    wait_until(lambda: len(script.stdout.peek(1)) > 0)
    received = script.stdout.read()
    script.communicate(timeout=TIMEOUT_S)
    assert received == (b"x" * 99 + b"\n") * 1500
