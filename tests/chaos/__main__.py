"""A chaos test: random calls on workers that are killed and stopped at random.

    python -m tests.chaos --seconds 3600

Several threads submit calls of 0 to 50 MB and 0 to 100 ms that return, raise, depend on others or use MPI, while workers
get SIGKILL and SIGSTOP (and later SIGCONT). In the end every future must be done and every result correct. There must be
no more failures than kills. No process, descriptor, segment or file may be left, except for files that MPICH's proxies
leave in /tmp when they are killed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends.registry import BACKENDS
from pympipool.errors import WorkerDied, WorkerStartError

sys.path.append(str(Path(__file__).parents[1]))
from support.leftover_files import forgotten_files, shared_memory_files
from support.loopback_tcp import LoopbackTcpBackend

LARGEST_BYTES = 50_000_000
LONGEST_S = 0.1
IN_FLIGHT = 40
"""Maximum number of unfinished calls of each thread."""

LIMIT_S = 120.0
"""Seconds that a call may take after the last kill. A call that is not done by then counts as lost."""


# ---- what runs in the workers ----


def echo(data: Any, seconds: float) -> Any:
    """Sleep, then return the argument."""
    time.sleep(seconds)
    return data


def fail(number: int, seconds: float) -> None:
    """Sleep, then raise."""
    time.sleep(seconds)
    raise ValueError(number)


def add(a: int, b: int) -> int:
    """Add two values; used by calls that depend on others."""
    return a + b


def mean_over_ranks(number: int, seconds: float) -> float:
    """Return a mean over all ranks, with a collective of MPI."""
    from mpi4py import MPI

    time.sleep(seconds)
    return MPI.COMM_WORLD.allreduce(number) / MPI.COMM_WORLD.Get_size()


# ---- what the master does ----


@dataclass
class Tally:
    """The counters and errors of a run."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count one more event of this kind."""
        with self.lock:
            self.ended[what] += 1

    def complain(self, what: str) -> None:
        """Record a wrong result."""
        with self.lock:
            self.wrong.append(what)


class Caller(threading.Thread):
    """A submitter of random calls, which checks their results."""

    def __init__(self, executor: Executor, kinds: list[str], seed: int, end_s: float, tally: Tally) -> None:
        super().__init__(name=f"caller-{seed}")
        self.executor = executor
        self.kinds = kinds
        self.random = random.Random(seed)
        self.end_s = end_s
        self.tally = tally
        self.pending: list[tuple[str, Any, Future[Any]]] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.end_s:
                self.pending.append(self._submit())
                if len(self.pending) >= IN_FLIGHT:
                    self._check(self.pending.pop(0))
            while self.pending:
                self._check(self.pending.pop(0))
        except BaseException as error:
            self.failure = error

    def _submit(self) -> tuple[str, Any, Future[Any]]:
        kind = self.random.choice(self.kinds)
        number = self.random.randrange(1_000_000)
        seconds = self.random.choice([0.0, 0.0, 0.001, self.random.uniform(0, LONGEST_S)])
        submit = self.executor.submit
        match kind:
            case "echo":
                return kind, number, submit(echo, number, seconds)
            case "bytes":
                data = self.random.randbytes(int(10 ** self.random.uniform(0, 6)))
                return kind, data, submit(echo, data, seconds)
            case "array":
                size = int(10 ** self.random.uniform(0, np.log10(LARGEST_BYTES / 8)))
                data = np.arange(number, number + size, dtype=np.float64)
                return kind, data, submit(echo, data, seconds)
            case "raise":
                return kind, number, submit(fail, number, seconds)
            case "chain":
                first = submit(echo, number, seconds)
                return kind, number + 2, submit(add, submit(add, first, 1), 1)
            case "cancel":
                future = submit(echo, number, seconds)
                future.cancel()
                return kind, number, future
            case _:
                return kind, [float(number)] * 2, submit(mean_over_ranks, number, seconds)

    def _check(self, call: tuple[str, Any, Future[Any]]) -> None:
        kind, expected, future = call
        try:
            result = future.result(timeout=LIMIT_S)
        except WorkerDied:
            self.tally.count("worker died")
        except WorkerStartError as error:  # the workers for one call were killed before they were ready, three in a row
            self.tally.count("worker died at start")
            if "SIGKILL" not in str(error):
                self.tally.complain(f"{kind} failed with {error!r}")
        except CancelledError:
            self.tally.count("cancelled")
            if kind != "cancel":
                self.tally.complain(f"{kind} was cancelled")
        except TimeoutError:
            self.tally.count("LOST")
            self.tally.complain(f"{kind} is not done after {LIMIT_S} s")
        except ValueError as error:
            self.tally.count("raised")
            if kind != "raise" or error.args != (expected,):
                self.tally.complain(f"{kind} raised {error!r}, not ValueError({expected!r})")
        else:
            self.tally.count("returned")
            if kind == "raise" or not np.array_equal(result, expected):
                self.tally.complain(f"{kind} returned something else: {str(result)[:80]} for {str(expected)[:80]}")


class Killer(threading.Thread):
    """A thread that kills and stops workers at random."""

    def __init__(self, pause_s: float, seed: int, end_s: float, tally: Tally) -> None:
        super().__init__(name="killer")
        self.pause_s = pause_s
        self.random = random.Random(seed)
        self.end_s = end_s
        self.tally = tally
        self.stopped: list[psutil.Process] = []

    def run(self) -> None:
        while time.monotonic() < self.end_s:
            time.sleep(self.random.expovariate(1 / self.pause_s))
            workers = [child for child in descendants() if is_worker(child)]
            if self.random.random() < 0.8:  # kill young workers less often, or MPI workers would never get old
                workers = [worker for worker in workers if time.time() - worker.create_time() > 0.7]
            if workers:
                self._hit(self.random.choice(workers))
        for process in self.stopped:
            send(process, signal.SIGCONT)

    def _hit(self, process: psutil.Process) -> None:
        if self.random.random() < 0.7:
            if send(process, signal.SIGKILL):
                self.tally.kills["SIGKILL"] += 1
        elif send(process, signal.SIGSTOP):
            self.tally.kills["SIGSTOP"] += 1
            self.stopped.append(process)
        if len(self.stopped) > 1:
            send(self.stopped.pop(0), signal.SIGCONT)


def send(process: psutil.Process, number: int) -> bool:
    """Send the signal; return False if the process has ended before."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def descendants() -> list[psutil.Process]:
    """Return all descendants of this process."""
    return psutil.Process().children(recursive=True)


def is_worker(process: psutil.Process) -> bool:
    """Return True if the process runs the worker's program. mpiexec and the forkserver do not count."""
    try:
        command = " ".join(process.cmdline())
        return "pympipool.worker" in command and "mpiexec" not in command and process.status() != "zombie"
    except psutil.Error:
        return False


def chaos(seconds: float, seed: int, pause_s: float, backend: str = "auto") -> tuple[Tally, list[str]]:
    """Run the test, and return its tally and its leftovers. Only files of this run count as left behind."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        return _chaos(seconds, seed, pause_s, backend, Path(folder))


def _chaos(seconds: float, seed: int, pause_s: float, backend: str, folder: Path) -> tuple[Tally, list[str]]:
    files_before = shared_memory_files()
    descriptors_before = psutil.Process().num_fds()
    tally = Tally()
    end_s = time.monotonic() + seconds
    serial = ["echo", "echo", "echo", "bytes", "array", "raise", "chain", "cancel"]
    with (
        Executor(max_workers=3, block_allocation=True, backend=backend) as block,
        Executor(max_cores=2, cores_per_worker=2, block_allocation=True, backend=backend) as mpi,
        Executor(max_cores=2, backend=backend) as single,
    ):
        callers = [
            Caller(block, serial, seed, end_s, tally),
            Caller(block, serial, seed + 1, end_s, tally),
            Caller(mpi, ["mpi"], seed + 2, end_s, tally),
            Caller(single, ["echo", "raise", "chain"], seed + 3, end_s, tally),
        ]
        killer = Killer(pause_s, seed, end_s, tally)
        for thread in (*callers, killer):
            thread.start()
        for thread in (*callers, killer):
            thread.join()
    for caller in callers:
        if caller.failure is not None:
            tally.complain(f"{caller.name} failed with {caller.failure!r}")
    left = [f"process {child.pid} {child.name()}" for child in descendants()]
    left += map(str, forgotten_files(shared_memory_files, files_before))
    left += map(str, folder.iterdir())
    if psutil.Process().num_fds() > descriptors_before:
        left.append(f"{psutil.Process().num_fds() - descriptors_before} descriptors")
    return tally, left


def main() -> int:
    """Run the test from the command line. The exit code is 0 if all guarantees were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--pause", type=float, default=0.3, help="mean time between two hits, s")
    parser.add_argument(
        "--over-tcp", action="store_true", help="workers do not know that they are on the master's host"
    )
    options = parser.parse_args()
    if options.over_tcp:
        BACKENDS["tcp"] = LoopbackTcpBackend
    began = time.monotonic()
    tally, left = chaos(options.seconds, options.seed, options.pause, "tcp" if options.over_tcp else "auto")
    died = tally.ended["worker died"]
    report = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began, 1),
        "calls": sum(tally.ended.values()),
        **tally.ended,
        "hits": dict(tally.kills),
        "wrong": len(tally.wrong),
        "left": left,
    }
    print(json.dumps(report, indent=2))
    for complaint in tally.wrong[:20]:
        print(complaint, file=sys.stderr)
    # A dead input fails the calls that depend on it, here two.
    too_many = died > 3 * tally.kills["SIGKILL"]
    return int(bool(tally.wrong or left or too_many))


if __name__ == "__main__":
    sys.exit(main())
