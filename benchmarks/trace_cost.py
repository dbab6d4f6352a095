"""Measures what a trace costs while it records: calls that do nothing, in alternating bursts with and without a trace.

    python -m benchmarks.trace_cost [workers]

It measures calls per second, and the CPU time per call of the thread that submits the calls and fetches their results.
A busy machine changes the rate by more than the trace costs, but hardly changes the CPU time. For both, the less
disturbed bursts are compared: the rates and times that a half, a quarter and a tenth of the bursts reach.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import NamedTuple

from pympipool import Executor, trace

CALLS = 6000
"""Number of calls in a burst, which takes about 20 ms."""

PAIRS = 300


class Burst(NamedTuple):
    """Calls per second, and CPU time of the submitting thread for one call."""

    rate: float
    call_ns: float


def nothing() -> None:
    pass


def burst(exe: Executor) -> Burst:
    start, start_ns = time.perf_counter(), time.thread_time_ns()
    for future in [exe.submit(nothing) for _ in range(CALLS)]:
        future.result()
    return Burst(CALLS / (time.perf_counter() - start), (time.thread_time_ns() - start_ns) / CALLS)


def measure(workers: int) -> tuple[list[Burst], list[Burst]]:
    """Return bursts without and with a trace."""
    without: list[Burst] = []
    traced: list[Burst] = []
    with Executor(max_workers=workers, block_allocation=True) as exe:
        for _ in range(5):
            burst(exe)
        gc.disable()  # a collection would slow down single bursts
        for number in range(PAIRS):
            for is_traced in (number % 2, 1 - number % 2):
                if is_traced:
                    session = trace().start()
                    traced.append(burst(exe))
                    session.stop()
                    del session
                else:
                    without.append(burst(exe))
        gc.enable()
    return without, traced


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    without, traced = measure(workers)
    print(f"{PAIRS} pairs of bursts of {CALLS} calls that do nothing, max_workers={workers}")
    print("reached by    calls per second: without     with    cost    CPU per call: without       with    cost")
    for part in (2, 4, 10):
        rates = [sorted((one.rate for one in bursts), reverse=True)[PAIRS // part] for bursts in (without, traced)]
        times = [sorted(one.call_ns for one in bursts)[PAIRS // part] for bursts in (without, traced)]
        print(
            f"{f'1/{part} of them':12}  {rates[0]:25,.0f}  {rates[1]:7,.0f}  {rates[0] / rates[1] - 1:6.1%}"
            f"  {times[0]:19,.0f} ns  {times[1]:5,.0f} ns  {times[1] / times[0] - 1:6.1%}"
        )


if __name__ == "__main__":
    main()
