"""`progress` and `map(progress=True)`: the bar follows what has ended, and is whole when nothing is left."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pympipool import progress
from support.calls import divide, do, fail, hold, square
from support.waiting import wait_until

tqdm_auto = pytest.importorskip("tqdm.auto", reason='pip install "pympipool[progress]"')


@pytest.fixture
def bars(monkeypatch):
    """The bars that were made meanwhile, drawn at every step."""
    made = []

    class Recorded(tqdm_auto.tqdm):
        def __init__(self, *args, **kwargs):
            made.append(self)
            self.drawn = io.StringIO()
            super().__init__(*args, **{"file": self.drawn, "mininterval": 0, **kwargs})

        @property
        def text(self):
            return self.drawn.getvalue().split("\r")[-1].strip()

    monkeypatch.setattr(tqdm_auto, "tqdm", Recorded)
    return made


def is_whole(bar, count):
    return bar.n == bar.total == count and f"{count}/{count}" in bar.text and bar.text.startswith(bar.desc or "100%")


# ---- progress ----


def test_futures_are_waited_for_under_a_bar(executor, bars):
    calls = [executor.submit(square, i) for i in range(20)]
    assert [call.result() for call in progress(calls)] == [i * i for i in range(20)]
    assert is_whole(bars[0], 20)


def test_calls_that_fail_are_counted_and_raise_nothing(executor, bars):
    calls = [executor.submit(divide, 1, i % 2) for i in range(10)]
    assert progress(iter(calls), desc="quotients") == calls
    assert is_whole(bars[0], 10)
    assert bars[0].text.startswith("quotients: 100%")
    assert "5 failed" in bars[0].text


@pytest.mark.parametrize(("wrong", "named"), [([1], "1, of type int"), ({"a": None}, "'a', of type str")])
def test_what_is_no_future_is_an_error_before_there_is_a_bar(bars, wrong, named):
    with pytest.raises(TypeError, match=f"there is {named}, among the futures"):
        progress(wrong)
    assert bars == []


def test_the_bar_moves_in_whatever_order_calls_end(make_executor, make_gate, bars):
    exe = make_executor(max_workers=2)
    first, second = make_gate(), make_gate()
    calls = [exe.submit(hold, first.path, 1), exe.submit(hold, second.path, 2)]
    first.wait_until_begun()
    second.wait_until_begun()
    waiter = threading.Thread(target=progress, args=(calls,))
    waiter.start()
    second.open()
    wait_until(lambda: bars and bars[0].n == 1)
    assert not calls[0].done()
    first.open()
    waiter.join(60)
    assert is_whole(bars[0], 2)


def test_cancelled_calls_are_over_too(make_executor, gate, bars):
    exe = make_executor(max_workers=1)
    calls = [exe.submit(hold, gate.path), *(exe.submit(square, i) for i in range(3))]
    gate.wait_until_begun()
    for call in calls[1:]:
        call.cancel()
    gate.open()
    progress(calls)
    assert is_whole(bars[0], 4)
    assert "failed" not in bars[0].text


def test_futures_of_other_executors_are_welcome(bars):
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(divide, 1, i) for i in range(4)]
        assert progress(calls) == calls
    assert is_whole(bars[0], 4)
    assert "1 failed" in bars[0].text


def test_nothing_to_wait_for_is_a_bar_of_nothing(bars):
    assert progress([]) == []
    assert bars[0].n == 0


def test_a_call_that_does_not_end_can_be_left_with_ctrl_c(make_executor, gate, bars):
    """What Ctrl-C does: KeyboardInterrupt in the main thread, here raised by a signal of our own."""
    import signal

    exe = make_executor(max_workers=1)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()

    def interrupt():
        wait_until(lambda: bars)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        progress([held])
    assert not held.done()
    gate.open()
    held.result()


# ---- map ----


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_a_map_counts_its_calls_however_they_are_packed(make_executor, many, bars, chunksize):
    exe, count = make_executor(max_workers=2), many(2000, 20)
    assert list(exe.map(square, range(count), chunksize=chunksize, progress=True)) == [i * i for i in range(count)]
    assert is_whole(bars[0], count)
    assert bars[0].text.startswith("square: 100%")


def test_the_bar_of_a_map_moves_before_results_are_asked_for(executor, bars):
    results = executor.map(square, range(30), progress="thirty squares")
    wait_until(lambda: is_whole(bars[0], 30))
    assert list(results) == [i * i for i in range(30)]
    assert is_whole(bars[0], 30)
    assert bars[0].text.startswith("thirty squares: 100%")


def test_a_call_of_a_map_that_raises_ends_the_bar(executor, bars):
    results = executor.map(divide, [1] * 5, [1, 1, 0, 1, 1], progress=True)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert bars[0].disable or bars[0].n <= 5  # it is closed: nothing is drawn any more
    drawn = bars[0].drawn.getvalue()
    executor.submit(square, 1).result()
    assert bars[0].drawn.getvalue() == drawn


def test_a_map_under_a_bar_can_be_closed(make_executor, gate, bars):
    exe = make_executor(max_workers=1)
    results = exe.map(hold, [gate.path] * 5, progress=True)
    gate.wait_until_begun()
    results.close()
    gate.open(5)
    exe.shutdown()
    assert bars[0].n <= 1


def test_a_map_that_a_loop_leaves_ends_its_bar(make_executor, bars):
    exe = make_executor(max_workers=1)
    for _ in exe.map(square, range(50), chunksize=1, progress=True):
        break
    assert bars[0].disable  # as tqdm marks a bar that was closed


@pytest.mark.parametrize("chunksize", [None, 1])
def test_calls_that_a_map_cancels_at_its_end_are_no_progress(make_executor, gate, bars, chunksize):
    exe = make_executor(max_workers=1)
    results = exe.map(
        do, ["fail"] + ["hold"] * 20, ["no result"] + [gate.path] * 20, chunksize=chunksize, progress=True
    )
    with pytest.raises(ValueError, match="no result"):
        list(results)
    assert (bars[0].n, bars[0].disable) == (1, True)
    gate.open(20)


def test_a_map_that_nobody_asks_for_results_runs_under_its_bar(make_executor, bars):
    exe = make_executor(max_workers=1)
    exe.map(square, range(50), progress=True)
    wait_until(lambda: is_whole(bars[0], 50))


def test_an_empty_map_is_a_bar_of_nothing(executor, bars):
    assert list(executor.map(square, [], progress=True)) == []


def test_without_progress_no_bar_is_made(executor, bars):
    assert list(executor.map(square, range(3))) == [0, 1, 4]
    assert bars == []


@pytest.mark.parametrize("wrong", [None, 1, ["squares"]])
def test_progress_that_is_neither_bool_nor_text_is_an_error(executor, wrong):
    with pytest.raises(TypeError, match=r"progress is .*it must be True, False, or a text"):
        executor.map(square, [1], progress=wrong)


# ---- where it is seen ----

SCRIPT = """
from pympipool import Executor, progress
with Executor(max_workers=1, block_allocation=True) as exe:
    progress([exe.submit(abs, i) for i in range(50)], desc="waiting")
    list(exe.map(abs, range(5000), progress=True))
"""


def run_script(code, stderr):
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=50, check=False
    )


def read_all(descriptor):
    data = b""
    while True:
        try:
            data += os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return data.decode()


def test_a_terminal_shows_whole_bars():
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # else it has no columns
    try:
        assert run_script(SCRIPT, slave).returncode == 0
        os.set_blocking(master, False)
        shown = read_all(master)
    finally:
        os.close(slave)
        os.close(master)
    lines = [part.strip() for part in shown.replace("\n", "\r").split("\r") if part.strip()]
    assert any(line.startswith("waiting: 100%") and "50/50" in line for line in lines)
    assert lines[-1].startswith("abs: 100%")
    assert "5000/5000" in lines[-1]


def test_without_tqdm_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['tqdm'] = None\n"
        "from pympipool import Executor, progress\n"
        "with Executor(max_workers=1, block_allocation=True) as exe:\n"
        "    for attempt in (lambda: progress([]), lambda: exe.map(abs, [1], progress=True)):\n"
        "        try:\n            attempt()\n"
        "        except ImportError as error:\n            print(error)\n"
        "    print(list(exe.map(abs, [-1])))\n"
    )
    answer = run_script(code, subprocess.PIPE)
    said = 'a progress bar needs tqdm: pip install "pympipool[progress]"'
    assert answer.stdout.splitlines() == [said, said, "[1]"], answer.stderr


def test_executors_import_no_tqdm():
    code = "import sys, pympipool.executor; print('tqdm' in sys.modules, 'IPython' in sys.modules)"
    assert run_script(code, None).stdout == "False False\n"


def test_a_call_that_cannot_be_sent_counts_as_failed(executor, bars):
    calls = [executor.submit(square, threading.Lock()), executor.submit(fail), executor.submit(square, 2)]
    progress(calls)
    assert is_whole(bars[0], 3)
    assert "2 failed" in bars[0].text
