"""Other ways to use an executor: drain, idle workers, asyncio, external programs, joblib, progress bars."""

import asyncio
import os
import sys
import time

import pytest

from pympipool import Executor, ShellExecutor, SubprocessExecutor, progress
from pympipool._util.platform import IS_WINDOWS
from pympipool.errors import DrainedError
from support.calls import hold, square
from support.gate import Gate
from support.waiting import wait_until

LIMIT_S = 60

pytestmark = pytest.mark.skipif(not IS_WINDOWS, reason="tests/executor and tests/ecosystem try these on other systems")


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open(1000)
    gate.close()


def workers(exe):
    return len(exe.info["workers"])


def test_drained_executor_ends_what_runs(make, gate):
    exe = make(max_workers=1)
    running = exe.submit(hold, gate.path, "ended")
    gate.wait_until_begun()
    waiting = [exe.submit(square, n) for n in range(5)]
    exe.drain()
    assert all(isinstance(call.exception(LIMIT_S), DrainedError) for call in waiting)
    gate.open()
    assert running.result(LIMIT_S) == "ended"


def test_idle_workers_end_and_come_again():
    with Executor(max_workers=2, block_allocation=True, backend="mpi", idle_timeout=0.2) as exe:
        for _ in range(2):
            assert list(exe.map(square, range(4))) == [0, 1, 4, 9]
            wait_until(lambda: workers(exe) == 0)


def test_time_limit_ends_one_call(make):
    exe = make(max_workers=1, run_time_max=1.0)
    assert isinstance(exe.submit(time.sleep, 600).exception(LIMIT_S), TimeoutError)
    assert exe.submit(square, 3).result(LIMIT_S) == 9


def test_coroutines_await_calls(make, gate):
    exe = make()

    async def main():
        loop = asyncio.get_running_loop()
        held = loop.run_in_executor(exe, hold, gate.path, "held")
        values = await asyncio.gather(*(loop.run_in_executor(exe, square, n) for n in range(10)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(held), timeout=0.05)
        gate.open()
        return values, await held, await asyncio.wrap_future(exe.submit(square, 20))

    assert asyncio.run(main()) == ([n * n for n in range(10)], "held", 400)


PROGRAM = """
import sys
for line in sys.stdin:
    print(int(line) ** 2, flush=True)
"""


def test_program_answers_lines(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    with ShellExecutor([sys.executable, str(tmp_path / "program.py")]) as exe:
        assert [exe.submit(f"{n}\n", lines_to_read=1).result(LIMIT_S).strip() for n in range(3)] == ["0", "1", "4"]


def test_command_lines_run():
    with SubprocessExecutor(max_workers=2) as exe:
        call = exe.submit([sys.executable, "-c", "print('from a program')"], text=True)
        assert call.result(LIMIT_S).strip() == "from a program"


def test_joblib_runs_loops():
    joblib = pytest.importorskip("joblib", reason="pip install joblib")
    import pympipool.joblib

    with Executor(max_workers=2, block_allocation=True, backend="mpi") as exe:
        with joblib.parallel_config("pympipool", executor=exe):
            pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
        assert os.getpid() not in pids
    pympipool.joblib._idle.end()


def test_bar_counts_calls(make, capsys):
    pytest.importorskip("tqdm", reason="pip install tqdm")
    exe = make()
    calls = [exe.submit(square, n) for n in range(5)]
    assert sorted(call.result() for call in progress(calls)) == [0, 1, 4, 9, 16]
    assert list(exe.map(square, range(5), progress=True)) == [0, 1, 4, 9, 16]
    assert "5/5" in capsys.readouterr().err
