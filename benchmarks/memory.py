"""The memory of master and worker while very many small calls go by: python -m benchmarks.memory [--calls N] [--plot FILE]

Prints, and draws, the resident memory of both sides as the calls go on: first a million no-op calls, a thousand of
them under way at a time; then 100 000 calls of 1 KB that wait all at once, and their end.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from benchmarks.calls import nap, noop
from benchmarks.idle import psutil
from pympipool import Executor

UNDER_WAY = 1000
SAMPLES = 50
PENDING = 100_000
KILOBYTE = bytes(1000)

Sample = tuple[int, float, float]
"""Calls so far, resident megabytes of the master and of the worker."""


def resident_mb(pid: int) -> float:
    return float(psutil().Process(pid).memory_info().rss) / 1e6


def pass_by(exe: Executor, worker: int, calls: int) -> Iterator[Sample]:
    """Many small calls, of which few exist at a time."""
    under_way = deque(exe.submit(noop, i) for i in range(UNDER_WAY))
    for done in range(calls):
        if done % (calls // SAMPLES) == 0:
            yield done, resident_mb(os.getpid()), resident_mb(worker)
        under_way.popleft().result()
        under_way.append(exe.submit(noop, done))
    while under_way:
        under_way.popleft().result()
    yield calls, resident_mb(os.getpid()), resident_mb(worker)


def pile_up(exe: Executor) -> tuple[float, float]:
    """Megabytes that PENDING calls with arguments of a kilobyte take in the master, and what is left of it after them."""
    before = resident_mb(os.getpid())
    busy = exe.submit(nap, 2.0)
    calls = [exe.submit(len, KILOBYTE + b"%d" % i) for i in range(PENDING)]
    taken = resident_mb(os.getpid()) - before
    for call in [busy, *calls]:
        call.result()
    del busy, call, calls
    give_back_free_memory()
    return taken, resident_mb(os.getpid()) - before


def give_back_free_memory() -> None:
    """What malloc keeps for the next calls is not in use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def draw(samples: list[Sample], file: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "pympipool"  # the same file from the same figures
    calls, master, worker = zip(*samples, strict=True)
    _, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for name, values, colour in (("master", master, "#1f6f8b"), ("worker", worker, "#d98032")):
        axes.plot([count / 1e6 for count in calls], values, color=colour, lw=2)
        axes.annotate(
            name, (calls[-1] / 1e6, values[-1]), (6, 0), textcoords="offset points", color=colour, va="center"
        )
    axes.set(xlabel="million calls", ylabel="resident memory, MB", ylim=(0, 1.2 * max(*master, *worker)))
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    with Executor(max_workers=1, block_allocation=True) as exe:
        worker = exe.submit(os.getpid).result()
        samples = list(pass_by(exe, worker, options.calls))
        taken, left = pile_up(exe)
    for calls, of_master, of_worker in samples[:: SAMPLES // 10]:
        print(f"{calls:>9} calls: master {of_master:6.1f} MB, worker {of_worker:6.1f} MB")
    pickled = PENDING * 1025 / 1e6  # the bytes, five digits, and the frame of a pickle
    print(f"{PENDING} waiting calls of 1 KB: {taken:.0f} MB, {taken / pickled:.1f} times their pickled size")
    print(f"{left:.0f} MB of it in use after them")
    if options.plot is not None:
        draw(samples, options.plot)


if __name__ == "__main__":
    main()
