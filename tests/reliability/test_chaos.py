"""Runs the chaos test for half a minute; `python -m tests.chaos --seconds 3600` runs it for an hour.

CHAOS_SECONDS is the time for each of the modes: 80 s in all in `.ci/run`, 15 minutes in `make test-long`.
"""

import os
import sys
from pathlib import Path

import pytest

import pympipool
from chaos import guardian
from support.hang_report import STACKS_S
from support.scripts import run_program

SECONDS = int(os.environ.get("CHAOS_SECONDS", "15"))

LIMIT_S = SECONDS + guardian.LONGEST_BESIDE_S
"""Longer than any limit of the run itself, which says where it hangs."""

MODES = {
    "this machine": [],
    "over tcp": ["--over-tcp"],
}


@pytest.mark.timeout(LIMIT_S + STACKS_S + 30)
@pytest.mark.mpi
@pytest.mark.parametrize("mode", MODES)
def test_no_blow_loses_calls_or_leaves_anything(mode):
    source = Path(pympipool.__file__).parents[1]
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), *MODES[mode]]
    done = run_program(command, timeout_s=LIMIT_S, cwd=source)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"


def test_hang_at_the_end_is_reported(monkeypatch):
    monkeypatch.setattr(guardian, "END_S", 0.0)
    verdict = guardian.chaos(guardian.Options(seconds=0.0, kinds=[], threads=["block"]))
    assert [text.splitlines()[0] for text in verdict.complaints] == ["HANG: the master does not end within 0 s"]
    assert "chaos.master" in verdict.complaints[0]


INTERRUPTED_DRIVER = """
import os, signal, time
from chaos.board import Board
from chaos.rounds import Driver
from chaos.tally import Tally

signal.signal(signal.SIGINT, signal.SIG_IGN)
script = os.getpid()
if os.fork() == 0:
    while os.getppid() == script:
        os.kill(script, signal.SIGINT)
        time.sleep(0.0003)  # the pace of the interrupts
    os._exit(0)
tally = Tally("driver", Board.create(), os.open(os.devnull, os.O_WRONLY))
end_s = time.monotonic() + 1.5
driver = Driver(tally, 1, end_s, mpi=False, nasty=True, backend="auto", pause_s=0.0)
driver.rounds = [lambda: None, lambda: time.sleep(0.001)]
driver.drive()
assert tally.counts["rounds"] > 10 and tally.counts["interrupted rounds"] > 10, tally.counts
"""


def test_interrupts_hit_rounds_of_driver_only():
    paths = [str(Path(pympipool.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = run_program([sys.executable, "-c", INTERRUPTED_DRIVER], timeout_s=60.0, env=environment)
    assert done.returncode == 0, done.stderr
