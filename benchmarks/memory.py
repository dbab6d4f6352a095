"""Memory of master and worker during very many small calls: python -m benchmarks.memory [--calls N] [--plot FILE]

Prints and draws the resident memory of both sides. First it runs a million no-op calls, of which a thousand are
pending at a time. Then it submits 100 000 calls of 1 KB, all pending at once, and waits for their results.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from benchmarks.calls import noop, sleep
from benchmarks.idle import psutil
from pympipool import Executor

PENDING_AT_A_TIME = 1000
SAMPLES = 50
PENDING = 100_000
KILOBYTE = bytes(1000)

Sample = tuple[int, float, float]
"""Number of finished calls, resident megabytes of the master, resident megabytes of the worker."""


def resident_mb(pid: int) -> float:
    return float(psutil().Process(pid).memory_info().rss) / 1e6


def run_calls(exe: Executor, worker: int, calls: int) -> Iterator[Sample]:
    """Run many small calls, of which few exist at a time. Yield samples of the memory."""
    pending = deque(exe.submit(noop, i) for i in range(PENDING_AT_A_TIME))
    for finished in range(calls):
        if finished % (calls // SAMPLES) == 0:
            yield finished, resident_mb(os.getpid()), resident_mb(worker)
        pending.popleft().result()
        pending.append(exe.submit(noop, finished))
    while pending:
        pending.popleft().result()
    yield calls, resident_mb(os.getpid()), resident_mb(worker)


def memory_of_pending_calls(exe: Executor) -> tuple[float, float]:
    """Submit PENDING calls with arguments of a kilobyte.

    Returns:
        Megabytes that the pending calls take in the master, and megabytes still in use after they have finished.
    """
    before = resident_mb(os.getpid())
    busy = exe.submit(sleep, 2.0)
    calls = [exe.submit(len, KILOBYTE + b"%d" % i) for i in range(PENDING)]
    taken = resident_mb(os.getpid()) - before
    for call in [busy, *calls]:
        call.result()
    del busy, call, calls
    trim_heap()
    return taken, resident_mb(os.getpid()) - before


def trim_heap() -> None:
    """Return free memory to the system: memory that malloc keeps for the next calls is not in use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


def draw(samples: list[Sample], file: Path) -> None:
    from matplotlib import pyplot as plt

    from pympipool.diagnostics.figures import save

    calls, master, worker = zip(*samples, strict=True)
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for name, values, colour in (("master", master, "#1f6f8b"), ("worker", worker, "#d98032")):
        axes.plot([count / 1e6 for count in calls], values, color=colour, lw=2)
        axes.annotate(
            name, (calls[-1] / 1e6, values[-1]), (6, 0), textcoords="offset points", color=colour, va="center"
        )
    axes.set(xlabel="million calls", ylabel="resident memory, MB", ylim=(0, 1.2 * max(*master, *worker)))
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    with Executor(max_workers=1, block_allocation=True) as exe:
        worker = exe.submit(os.getpid).result()
        samples = list(run_calls(exe, worker, options.calls))
        taken, left = memory_of_pending_calls(exe)
    for calls, of_master, of_worker in samples[:: SAMPLES // 10]:
        print(f"{calls:>9} calls: master {of_master:6.1f} MB, worker {of_worker:6.1f} MB")
    pickled = PENDING * 1025 / 1e6  # the bytes, five digits, and the frame of a pickle
    print(f"{PENDING} pending calls of 1 KB: {taken:.0f} MB, {taken / pickled:.1f} times their pickled size")
    print(f"{left:.0f} MB of it still in use after the calls")
    if options.plot is not None:
        draw(samples, options.plot)


if __name__ == "__main__":
    main()
