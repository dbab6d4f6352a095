"""`progress` and `map(progress=True)`: the bar counts ended calls, and is complete at the end."""

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
from support.scripts import run_program
from support.waiting import wait_until

tqdm_auto = pytest.importorskip("tqdm.auto", reason="pip install tqdm")


@pytest.fixture
def bars(monkeypatch):
    """The bars that the test has made; they are drawn at every step."""
    made = []

    class Recorded(tqdm_auto.tqdm):
        def __init__(self, *args, **kwargs):
            self.drawn = io.StringIO()
            super().__init__(*args, **{"file": self.drawn, "mininterval": 0, **kwargs})
            made.append(self)

        @property
        def text(self):
            return self.drawn.getvalue().split("\r")[-1].strip()

    monkeypatch.setattr(tqdm_auto, "tqdm", Recorded)
    return made


def is_complete(bar, count):
    return bar.n == bar.total == count and f"{count}/{count}" in bar.text and bar.text.startswith(bar.desc or "100%")


# ---- progress ----


def test_progress_waits_for_futures(executor, bars):
    calls = [executor.submit(square, i) for i in range(20)]
    assert [call.result() for call in progress(calls)] == [i * i for i in range(20)]
    assert is_complete(bars[0], 20)


def test_failed_calls_are_counted_and_not_raised(executor, bars):
    calls = [executor.submit(divide, 1, i % 2) for i in range(10)]
    assert progress(iter(calls), desc="quotients") == calls
    assert is_complete(bars[0], 10)
    assert bars[0].text.startswith("quotients: 100%")
    assert "5 failed" in bars[0].text


@pytest.mark.parametrize(("wrong", "named"), [([1], "1, of type int"), ({"a": None}, "'a', of type str")])
def test_other_objects_raise_before_bar_is_made(bars, wrong, named):
    with pytest.raises(TypeError, match=f"there is {named}, among the futures"):
        progress(wrong)
    assert bars == []


def test_bar_counts_calls_in_any_order(make_executor, make_gate, bars):
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
    assert is_complete(bars[0], 2)


def test_cancelled_calls_are_counted(make_executor, gate, bars):
    exe = make_executor(max_workers=1)
    calls = [exe.submit(hold, gate.path), *(exe.submit(square, i) for i in range(3))]
    gate.wait_until_begun()
    for call in calls[1:]:
        call.cancel()
    gate.open()
    progress(calls)
    assert is_complete(bars[0], 4)
    assert "failed" not in bars[0].text


def test_futures_of_other_executors_are_counted(bars):
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(divide, 1, i) for i in range(4)]
        assert progress(calls) == calls
    assert is_complete(bars[0], 4)
    assert "1 failed" in bars[0].text


def test_progress_without_futures(bars):
    assert progress([]) == []
    assert bars[0].n == 0


def test_ctrl_c_interrupts_progress(make_executor, gate, bars):
    """Ctrl-C raises KeyboardInterrupt in the main thread; this test sends the signal itself."""
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
def test_bar_of_a_map_counts_single_calls(make_executor, many, bars, chunksize):
    exe, count = make_executor(max_workers=2), many(2000, 20)
    assert list(exe.map(square, range(count), chunksize=chunksize, progress=True)) == [i * i for i in range(count)]
    assert is_complete(bars[0], count)
    assert bars[0].text.startswith("square: 100%")


def test_bar_of_a_map_moves_before_iteration(executor, bars):
    results = executor.map(square, range(30), progress="thirty squares")
    wait_until(lambda: is_complete(bars[0], 30))
    assert list(results) == [i * i for i in range(30)]
    assert is_complete(bars[0], 30)
    assert bars[0].text.startswith("thirty squares: 100%")


def test_exception_in_a_map_closes_bar(executor, bars):
    results = executor.map(divide, [1] * 5, [1, 1, 0, 1, 1], progress=True)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert bars[0].disable or bars[0].n <= 5  # it is closed, and is not drawn any more
    drawn = bars[0].drawn.getvalue()
    executor.submit(square, 1).result()
    assert bars[0].drawn.getvalue() == drawn


def test_map_with_bar_can_be_closed(make_executor, gate, bars):
    exe = make_executor(max_workers=1)
    results = exe.map(hold, [gate.path] * 5, progress=True)
    gate.wait_until_begun()
    results.close()
    gate.open(5)
    exe.shutdown()
    assert bars[0].n <= 1


def test_leaving_loop_over_a_map_closes_bar(make_executor, bars):
    exe = make_executor(max_workers=1)
    for _ in exe.map(square, range(50), chunksize=1, progress=True):
        break
    assert bars[0].disable  # tqdm marks a closed bar as disabled


@pytest.mark.parametrize("chunksize", [None, 1])
def test_calls_cancelled_by_a_map_are_not_counted(make_executor, gate, bars, chunksize):
    exe = make_executor(max_workers=1)
    results = exe.map(
        do, ["fail"] + ["hold"] * 20, ["no result"] + [gate.path] * 20, chunksize=chunksize, progress=True
    )
    with pytest.raises(ValueError, match="no result"):
        list(results)
    assert (bars[0].n, bars[0].disable) == (1, True)
    gate.open(20)


def test_bar_of_map_whose_results_are_ignored(make_executor, bars):
    exe = make_executor(max_workers=1)
    exe.map(square, range(50), progress=True)
    wait_until(lambda: is_complete(bars[0], 50))


def test_progress_of_empty_map(executor, bars):
    assert list(executor.map(square, [], progress=True)) == []


def test_map_without_progress_makes_no_bar(executor, bars):
    assert list(executor.map(square, range(3))) == [0, 1, 4]
    assert bars == []


@pytest.mark.parametrize("wrong", [None, 1, ["squares"]])
def test_progress_of_wrong_type_raises(executor, wrong):
    with pytest.raises(TypeError, match=r"progress is .*it must be True, False, or a text"):
        executor.map(square, [1], progress=wrong)


# ---- in a terminal ----

SCRIPT = """
from pympipool import Executor, progress
with Executor(max_workers=1, block_allocation=True) as exe:
    progress([exe.submit(abs, i) for i in range(50)], desc="waiting")
    list(exe.map(abs, range(5000), progress=True))
"""


def run_script(code, stderr):
    return run_program([sys.executable, "-c", code], timeout_s=150, stderr=stderr)


def read_all(descriptor):
    data = b""
    while True:
        try:
            data += os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return data.decode()


def test_terminal_shows_complete_bars():
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a new terminal has no columns
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


def test_missing_tqdm_names_remedy():
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
    message = "a progress bar needs tqdm: pip install tqdm"
    assert answer.stdout.splitlines() == [message, message, "[1]"], answer.stderr


def test_executor_does_not_import_tqdm():
    code = "import sys, pympipool.executor; print('tqdm' in sys.modules, 'IPython' in sys.modules)"
    assert run_script(code, None).stdout == "False False\n"


def test_unpicklable_call_counts_as_failed(executor, bars):
    calls = [executor.submit(square, threading.Lock()), executor.submit(fail), executor.submit(square, 2)]
    progress(calls)
    assert is_complete(bars[0], 3)
    assert "2 failed" in bars[0].text
