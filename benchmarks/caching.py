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
ROUNDS = 3

Use = Callable[[np.ndarray], None]


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


# ---- overhead ----


def run_calls(function: Callable[[int], int], calls: int, directory: str | None) -> float:
    """Return the seconds from the first submit until the last result is there, and is written."""
    with Executor(max_workers=2, block_allocation=True, cache_directory=directory) as exe:
        exe.submit(abs, -1).result()
        start_s = time.perf_counter()
        futures = [exe.submit(function, x) for x in range(calls)]
        assert [future.result() for future in futures] == [x * x for x in range(calls)]
        exe.shutdown()
        return time.perf_counter() - start_s


def overhead(calls: int = 5000) -> None:
    for function in (wait_and_square, spin_and_square):
        best = [float("inf")] * 3
        for _ in range(ROUNDS):
            with folder() as path:
                times = [run_calls(function, calls, where) for where in (None, path, path)]
            best = list(map(min, best, times))
        without, first, second = best
        print(f"{function.__name__}, {calls} calls on 2 workers, best of {ROUNDS}:")
        print(f"  without a cache {without:.3f} s, empty cache {first:.3f} s ({first / without - 1:+.1%}),", end=" ")
        print(f"full cache {second:.3f} s (1/{without / second:.0f}), per answer {second / calls * 1e6:.0f} µs")


# ---- arrays ----


def ours(path: str, results: int, use: Use) -> float:
    with Executor(max_workers=2, block_allocation=True, cache_directory=path) as exe:
        return submitted(exe, results, use)


def executorlibs(path: str, results: int, use: Use) -> float:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=2, block_allocation=True, cache_directory=path) as exe:
        return submitted(exe, results, use)


def submitted(exe: Any, results: int, use: Use) -> float:
    """Return the seconds from the first submit until all results are read and written, with workers that have started."""
    for future in [exe.submit(abs, number) for number in range(2)]:
        future.result()
    start_s = time.perf_counter()
    futures = [exe.submit(make_array, x) for x in range(results)]
    is_read = futures[0].done()
    while futures:
        use(futures.pop().result())  # no result is kept
    if not is_read:
        exe.shutdown()  # all results are written
    return time.perf_counter() - start_s


def joblibs(path: str, results: int, use: Use, mmap_mode: str | None = None) -> float:
    from joblib import Memory

    cached = Memory(path, verbose=0, mmap_mode=mmap_mode).cache(make_array)
    start_s = time.perf_counter()
    for x in range(results):
        use(cached(x))
    return time.perf_counter() - start_s


def last_item(array: np.ndarray) -> None:
    assert array[-1] == array[0]


def each_page(array: np.ndarray) -> None:
    """Read an item of each page, since a mapped file is read as it is used."""
    assert array[::512].max() == array[-1]


def arrays(results: int = 1000) -> None:
    subjects: dict[str, Callable[[str, int, Use], float]] = {"pympipool": ours}
    if importlib.util.find_spec("joblib"):
        subjects |= {"joblib.Memory": joblibs, "joblib.Memory, mmap_mode='c'": partial(joblibs, mmap_mode="c")}
    if importlib.util.find_spec("executorlib"):
        subjects["executorlib"] = executorlibs
    times: dict[str, list[float]] = {}
    for name, subject in subjects.items():
        with folder() as path:
            times[name] = [
                subject(path, results, use) for use in (each_page, last_item, last_item, each_page, each_page)
            ]
    print(f"{results} results of 1 MB, in seconds, and as multiples of pympipool's:")
    measured = {name: (write, min(reads[:2]), min(reads[2:])) for name, (write, *reads) in times.items()}
    for name, figures in measured.items():
        texts = [f"{s:7.3f} ({s / ours_s:4.1f} ×)" for s, ours_s in zip(figures, measured["pympipool"], strict=True)]
        print(f"  {name:30} write {texts[0]}  read one item {texts[1]}  read each page {texts[2]}")


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
