"""The program under test: a script of a user, with four threads that use executors in all ways.

    python -m tests.chaos.master SETTINGS

It is started by `guardian`, which gives it limits, and deals out the blows. SETTINGS are JSON, see `Settings`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.board import Board
from chaos.callers import Caller
from chaos.calls import NASTY_KINDS, RANKS, SERIAL
from chaos.rounds import Driver
from chaos.tally import Tally
from pympipool.backends.registry import BACKENDS

ENDED_S = 30.0
"""Seconds in which the threads of pympipool must have ended after the last executor was closed."""


@dataclass
class Settings:
    """What the guardian tells the master.

    Attributes:
        seed: Of all choices.
        seconds: Time from the start of the threads to the submission of the last calls.
        mpi: True to have a worker of two ranks too.
        over_tcp: True to let workers use the relay, as if they were on another host.
        nasty: False to leave out what is unpleasant.
        threads: Which of `board.THREADS` run.
        pause_s: Mean pause between two calls of a thread, s.
        report: Descriptor of the pipe to the guardian.
        board: Descriptor of the board.
    """

    seed: int
    seconds: float
    mpi: bool
    over_tcp: bool
    nasty: bool
    threads: list[str]
    pause_s: float
    report: int
    board: int


def main() -> None:
    """Run for the time given, and report what is left."""
    faulthandler.enable()
    settings = Settings(**json.loads(sys.argv[1]))
    board = Board(settings.board)
    if settings.over_tcp:
        from support.loopback_tcp import LoopbackTcpBackend

        BACKENDS["tcp"] = LoopbackTcpBackend
    backend = "tcp" if settings.over_tcp else "auto"
    tallies = {name: Tally(name, board, settings.report) for name in settings.threads}
    kinds = [kind for kind in SERIAL if settings.nasty or kind not in NASTY_KINDS]
    per_thread = {
        "block": (kinds, {"max_workers": 2, "block_allocation": True}),
        "call": ([kind for kind in kinds if kind != "bytes"], {"max_cores": 1}),
        "mpi": (RANKS, {"max_cores": 2, "cores_per_worker": 2, "block_allocation": True}),
    }
    threading.Thread(target=give_memory_back, name="give-memory-back", daemon=True).start()
    before = _open_descriptors()
    end_s = time.monotonic() + settings.seconds
    callers = [
        Caller(
            tallies[name],
            settings.seed,
            end_s,
            per_thread[name][0],
            settings.pause_s,
            backend=backend,
            **per_thread[name][1],
        )
        for name in settings.threads
        if name != "driver"
    ]
    for caller in callers:
        caller.start()
    tally = tallies.get("driver") or Tally("driver", board, settings.report)
    if "driver" in tallies:
        driver = Driver(
            tally,
            settings.seed,
            end_s,
            mpi=settings.mpi,
            nasty=settings.nasty,
            backend=backend,
            pause_s=settings.pause_s * 5,
        )
        board.begin()
        driver.drive()
    else:
        board.begin()
    tally.tell()
    board.end("driver")
    for caller in callers:
        caller.join()
    _complain_of_leftovers(tally, before)


def give_memory_back() -> None:
    """Have malloc give back what it keeps of freed memory, once a second.

    glibc has up to 8 heaps for each core, and each thread of each executor takes one. Each of them keeps what was its most, so
    the memory of the process creeps for a long time, as if something leaked.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        with contextlib.suppress(MemoryError):
            trim(0)
        time.sleep(1.0)  # the pace


def _complain_of_leftovers(tally: Tally, before: dict[str, str]) -> None:
    """Report threads and descriptors that stay though all executors are closed."""
    while tally.board.was_short_since(time.monotonic()):
        time.sleep(0.1)  # polls shared memory, which another process writes
    deadline_s = time.monotonic() + ENDED_S
    while True:
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("pympipool")]
        opened = {number: target for number, target in _open_descriptors().items() if number not in before}
        if (not threads and not opened) or time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    if threads:
        tally.complain(f"LEFT: {len(threads)} threads: {sorted(set(threads))}")
    if opened:
        tally.complain(f"LEFT: {len(opened)} descriptors: {opened}")


def _open_descriptors() -> dict[str, str]:
    """Return the open descriptors and what they refer to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one with which the folder is read
            pass
    return found


if __name__ == "__main__":
    main()
