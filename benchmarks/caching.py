"""Measures the cache of results: what it costs, what it saves, and what a killed script loses.

    python -m benchmarks.caching overhead [calls]      calls of 1 ms: without a cache, with an empty one, with a full one
    python -m benchmarks.caching arrays [results]      results of 1 MB, beside joblib.Memory and executorlib if they are installed
    python -m benchmarks.caching kills [calls [kills]] calls of 1 ms in a script that is killed at random moments and run again

What is compared alternates in one process. The cache directories are in a folder of the current one, which is removed.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pympipool import Executor

CALL_S = 0.001
ARRAY_ITEMS = 125_000
BLOCK_CALLS = 1000
ARRAY_ROUNDS = 4

Use = Callable[[np.ndarray], None]
Cost = tuple[float, float]
"""Seconds, and seconds of processor time."""

Subject = Callable[[str, int, Use], Cost]


def wait_and_square(x: int) -> int:
    time.sleep(CALL_S)
    return x * x


def spin_and_square(x: int) -> int:
    end_s = time.perf_counter() + CALL_S
    while time.perf_counter() < end_s:
        pass
    return x * x


def make_array(x: int) -> np.ndarray:
    return np.full(ARRAY_ITEMS, float(x))


@contextmanager
def folder() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="caching-", dir=".")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# ---- what is measured ----


class Stopwatch:
    """Measures time, and processor time of this process and its workers, since it was made."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._start_cpu_s = cpu_s()

    def seconds(self) -> float:
        return time.perf_counter() - self._start_s

    def read(self) -> Cost:
        return self.seconds(), cpu_s() - self._start_cpu_s


def cpu_s() -> float:
    """Return the processor time of the threads of this process, and of all that it has started, which live."""
    total_ns, pids = 0, [os.getpid()]
    while pids:
        for task in Path(f"/proc/{pids.pop()}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
            pids += map(int, (task / "children").read_text().split())
    return total_ns / 1e9


# ---- overhead ----


def run_calls(exe: Executor, function: Callable[[int], int], numbers: range) -> Cost:
    """Return what it costs to get the results of calls, and to write them."""
    watch = Stopwatch()
    futures = [exe.submit(function, x) for x in numbers]
    assert [future.result() for future in futures] == [x * x for x in numbers]
    if exe._cache is not None:
        exe._cache._writer.flush()
    return watch.read()


def overhead(calls: int = 20_000) -> None:
    """Run calls without and with a cache in turns, in blocks: the load of the machine is about the same for a pair."""
    for function in (wait_and_square, spin_and_square):
        print(f"{function.__name__}, {calls} calls on 2 workers, in pairs of blocks of {BLOCK_CALLS}:")
        with folder() as path:
            pairs = blocks_in_turns(function, path, max(calls // BLOCK_CALLS, 1))
            for name, costs in zip(("time", "processor time"), pairs.transpose(2, 1, 0), strict=True):
                without, cached = np.median(costs, axis=1) / BLOCK_CALLS * 1e6
                low, middle, high = np.quantile(costs[1] / costs[0] - 1, (0.25, 0.5, 0.75))
                print(f"  {name}: {without:.1f} µs per call without a cache, {cached:.1f} µs with it;", end=" ")
                print(f"overhead {middle:+.1%} (quartiles {low:+.1%}, {high:+.1%})")
            with Executor(max_workers=2, block_allocation=True, cache_directory=path) as exe:
                second_s, _ = run_calls(exe, function, range(len(pairs) * BLOCK_CALLS))
        first_s = pairs[:, 1, 0].sum()
        print(f"  second run 1/{first_s / second_s:.0f} of the first, {second_s / calls * 1e6:.1f} µs per answer")


def blocks_in_turns(function: Callable[[int], int], path: str, blocks: int) -> np.ndarray:
    """Return the costs of each pair of blocks: without a cache, and with one."""
    with (
        Executor(max_workers=2, block_allocation=True) as without,
        Executor(max_workers=2, block_allocation=True, cache_directory=path) as cached,
    ):
        for exe in (without, cached):
            run_calls(exe, function, range(-BLOCK_CALLS, 0))
        pairs = []
        for number in range(blocks):
            numbers = range(number * BLOCK_CALLS, (number + 1) * BLOCK_CALLS)
            order = (without, cached) if number % 2 else (cached, without)
            costs = {exe: run_calls(exe, function, numbers) for exe in order}
            pairs.append((costs[without], costs[cached]))
    return np.array(pairs)


# ---- arrays ----


def ours(path: str, results: int, use: Use) -> Cost:
    with Executor(max_workers=2, block_allocation=True, cache_directory=path) as exe:
        return submitted(exe, results, use)


def executorlibs(path: str, results: int, use: Use) -> Cost:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=2, block_allocation=True, cache_directory=path) as exe:
        return submitted(exe, results, use)


def submitted(exe: Any, results: int, use: Use) -> Cost:
    """Return what it costs to get all results, with workers that have started and imported numpy."""
    for future in [exe.submit(import_numpy, time.time() + number) for number in range(2)]:
        future.result()
    watch = Stopwatch()
    futures = [exe.submit(make_array, x) for x in range(results)]
    is_read = futures[0].done()
    while futures:
        use(futures.pop().result())  # no result is kept
    cost = watch.read()
    if not is_read:
        exe.shutdown()  # all results are written
    return watch.seconds(), cost[1]


def import_numpy(_: float) -> None:
    np.zeros(1)
    time.sleep(0.1)  # in each worker


def joblibs(path: str, results: int, use: Use, mmap_mode: str | None = None) -> Cost:
    from joblib import Memory

    cached = Memory(path, verbose=0, mmap_mode=mmap_mode).cache(make_array)
    watch = Stopwatch()
    for x in range(results):
        use(cached(x))
    return watch.read()


def last_item(array: np.ndarray) -> None:
    assert array[-1] == array[0]


def each_page(array: np.ndarray) -> None:
    """Read an item of each page, since a mapped file is read as it is used."""
    assert array[::512].max() == array[-1]


def measure(subject: Subject, results: int) -> list[Cost]:
    """Return what it costs to write all results, to read an item of each, and to read each page."""
    with folder() as path:
        return [subject(path, results, use) for use in (each_page, last_item, each_page)]


def arrays(results: int = 1000) -> None:
    """Measure all in turns, `ARRAY_ROUNDS` times, and show the best: load of the machine only adds to it."""
    subjects: dict[str, Subject] = {"pympipool": ours}
    if importlib.util.find_spec("joblib"):
        subjects |= {"joblib.Memory": joblibs, "joblib.Memory, mmap_mode='c'": partial(joblibs, mmap_mode="c")}
    if importlib.util.find_spec("executorlib") and importlib.util.find_spec("h5py"):
        subjects["executorlib"] = executorlibs
    number = max(results // ARRAY_ROUNDS, 1)
    rounds: dict[str, list[Any]] = {name: [] for name in subjects}
    for _ in range(ARRAY_ROUNDS):
        for name, subject in subjects.items():
            rounds[name].append(np.array(measure(subject, number)) / number * 1e3)
    best = {name: np.min(figures, axis=0) for name, figures in rounds.items()}
    print(f"{results} results of 1 MB: ms per result, ms of processor time, and as multiples of pympipool's")
    for action, what in enumerate(("written", "one item read", "each page read")):
        print(f"  {what}:")
        for name, figures in best.items():
            wall, cpu = figures[action]
            own_wall, own_cpu = best["pympipool"][action]
            print(f"    {name:30} {wall:7.3f} ({wall / own_wall:4.1f} ×)  cpu {cpu:7.3f} ({cpu / own_cpu:4.1f} ×)")


# ---- kills ----

SCRIPT = """
import sys, time
from pympipool import Executor

def work(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.001)
    return x * x

if __name__ == "__main__":
    with Executor(max_workers=2, block_allocation=True, cache_directory="cache") as exe:
        futures = [exe.submit(work, x) for x in range(int(sys.argv[1]))]
        assert [future.result() for future in futures] == [x * x for x in range(int(sys.argv[1]))]
"""


def kills(calls: int = 100_000, number: int = 10) -> None:
    """Kill the script at random moments, and check that no more than the last second of work is done twice."""
    with folder() as path:
        Path(path, "script.py").write_text(SCRIPT)
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "script.py", str(calls)]
        alone_s = calls * CALL_S / 2
        for _ in range(number):
            process = subprocess.Popen(command, cwd=path, env=environment)
            time.sleep(random.uniform(0.05, 1.0) * alone_s / number)
            process.send_signal(signal.SIGKILL)
            process.wait()
        for name in ("to the end", "again"):
            start_s, before = time.perf_counter(), count(path)[0]
            subprocess.run(command, cwd=path, env=environment, check=True)
            print(f"{name}: {time.perf_counter() - start_s:.2f} s, {count(path)[0] - before} calls ran")
        ran, different = count(path)
        twice_s = (ran - different) * CALL_S / 2
        print(f"{calls} calls, {number} kills: {ran - different} ran twice, {twice_s / number:.3f} s of work per kill")
        assert different == calls
        assert twice_s <= number * 1.0


def count(path: str) -> tuple[int, int]:
    """Return how many calls have run, and how many different ones."""
    ran = Path(path, "ran").read_text().split() if Path(path, "ran").exists() else []
    return len(ran), len(set(ran))


def main() -> None:
    name, *numbers = sys.argv[1:] or ["overhead"]
    {"overhead": overhead, "arrays": arrays, "kills": kills}[name](*map(int, numbers))


if __name__ == "__main__":
    main()
