"""What a call costs the script's process with few and with many workers: python -m benchmarks.scale [WORKERS ...]

With `--nodes N --workers-per-node W` the workers are simulated, on nodes that only pretend to run them (`simulated_nodes.py`),
and compared with a single one. The executors live side by side in one process and take turns, so that a disturbance meets all of
them. Of each figure the
smallest of all rounds counts.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.idle import cores_used
from pympipool import Executor

WORKERS = (1, 10, 100, 500)
ONE_BY_ONE = 2000
BURST = 10_000
READY_LIMIT_S = 120.0


def no_op(*_: object) -> None:
    """Do nothing."""


def processor_s() -> float:
    """Return the processor time that all threads of this process have used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def one_by_one(executor: Any) -> int:
    """Wait for each call before the next is submitted; return how many there were."""
    for _ in range(ONE_BY_ONE):
        executor.submit(no_op).result()
    return ONE_BY_ONE


def burst(executor: Any) -> int:
    """Submit many calls, then wait for all of them; return how many there were."""
    futures = [executor.submit(no_op) for _ in range(BURST)]
    for future in futures:
        future.result()
    return BURST


def short_sleeps(executor: Any) -> int:
    """Keep every worker busy with calls that need no processor; return how many calls there were."""
    count = 4 * executor.info["max_workers"]
    futures = [executor.submit(time.sleep, 0.02) for _ in range(count)]
    for future in futures:
        future.result()
    return count


WAYS: dict[str, Callable[[Any], int]] = {"one by one": one_by_one, "burst": burst, "sleeps of 20 ms": short_sleeps}


@dataclass
class Measured:
    """What was measured with an executor.

    Attributes:
        executor: The executor.
        workers: Number of its workers.
        ready_s: Seconds until all of them have started.
        start_s: Processor time of this process for the start of all workers.
        per_call_s: Processor time of this process per call, for each way.
    """

    executor: Any
    workers: int
    ready_s: float
    start_s: float
    per_call_s: dict[str, float] = field(default_factory=dict)


@contextmanager
def started(workers: int, backend: str = "mpi") -> Iterator[Measured]:
    """Start an executor, and wait until all its workers are ready."""
    used_s, start = processor_s(), time.monotonic()
    with Executor(max_workers=workers, max_cores=workers, block_allocation=True, backend=backend) as executor:
        while (ready := len(executor.info["workers"])) < workers:
            if time.monotonic() - start > READY_LIMIT_S:
                raise TimeoutError(f"after {READY_LIMIT_S:g} s, {ready} of {workers} workers are ready")
            time.sleep(0.02)
        yield Measured(executor, workers, time.monotonic() - start, processor_s() - used_s)


def cost(way: Callable[[Any], int], executor: Any) -> float:
    """Return the processor time of this process per call, in seconds."""
    used_s = processor_s()
    count = way(executor)
    return (processor_s() - used_s) / count


def measure_in_turns(measured: Sequence[Measured], ways: Mapping[str, Callable[[Any], int]], rounds: int = 7) -> None:
    """Measure some executors in turns, and note the smallest cost of each."""
    for _ in range(rounds):
        for name, way in ways.items():
            for one in measured:
                one.per_call_s[name] = min(one.per_call_s.get(name, float("inf")), cost(way, one.executor))


@contextmanager
def simulated(nodes: int, workers: int, call_s: float, latency_s: float) -> Iterator[Measured]:
    """Start an executor with workers on nodes that only pretend."""
    from benchmarks.pairs import add_repository_to_pythonpath
    from benchmarks.simulated_nodes import SimulatedBackend
    from pympipool.backends.registry import BACKENDS

    add_repository_to_pythonpath()

    class Backend(SimulatedBackend):
        pass

    Backend.nodes, Backend.workers, Backend.call_s, Backend.latency_s = nodes, workers, call_s, latency_s
    BACKENDS["simulated"] = Backend
    with started(nodes * workers, "simulated") as measured:
        yield measured


def helpers_s() -> dict[str, float]:
    """Return the processor time of the relays and of all simulated nodes below this process."""
    used = {"relay": 0.0, "nodes": 0.0}
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        used["relay" if "tcp.relay" in " ".join(process.cmdline()) else "nodes"] += times.user + times.system
    return used


def used_by_all(way: Callable[[], int]) -> tuple[float, int, dict[str, float]]:
    """Return how long some calls have taken, in seconds, their number, and the processor time per call of all processes."""
    used_s, helpers, start = processor_s(), helpers_s(), time.monotonic()
    count = way()
    elapsed_s = time.monotonic() - start
    used = {"script": processor_s() - used_s} | {name: now - helpers[name] for name, now in helpers_s().items()}
    return elapsed_s, count, {name: seconds / count for name, seconds in used.items()}


def burst_rate(executor: Any) -> tuple[float, dict[str, float]]:
    """Return calls per second, and the processor time per call of all processes, in seconds."""
    elapsed_s, count, used = used_by_all(lambda: burst(executor))
    return count / elapsed_s, used


def long_calls(executor: Any, workers: int, futures: list[Any], each: int = 4) -> int:
    """Have each worker run some calls; return how many there were. To free their futures is not a part of that."""
    futures += (executor.submit(no_op) for _ in range(each * workers))
    for future in futures:
        future.result()
    return len(futures)


def in_us(used: Mapping[str, float]) -> str:
    """Return processor times per call as a text."""
    return ", ".join(f"{name} {seconds * 1e6:.1f} us" for name, seconds in used.items())


def measure_efficiency(executor: Any, workers: int, call_s: float) -> None:
    """Print how much of the time all workers were busy, and what the processes on this machine have to do for that."""
    futures: list[Any] = []
    elapsed_s, count, used = used_by_all(lambda: long_calls(executor, workers, futures))
    cores = len(os.sched_getaffinity(0))
    once_s = sum(used.values()) * workers / cores
    print(f"calls of {call_s:g} s: efficiency {count / workers * call_s / elapsed_s:.3f}; {in_us(used)} a call")
    print(f"{'':>12}  a call to each worker keeps the {cores} cores of this machine busy for {once_s * 1e3:.0f} ms")


def simulate(nodes: int, workers: int, latency_s: float) -> None:
    """Measure simulated workers, and print what was found."""
    count = nodes * workers
    ways = {name: WAYS[name] for name in ("one by one", "burst")}
    with simulated(1, 1, 0.0, latency_s) as one, simulated(nodes, workers, 0.0, latency_s) as all_:
        used = {"script": all_.start_s} | helpers_s()
        parts = ", ".join(f"{name} {seconds / count * 1e3:.2f} ms" for name, seconds in used.items())
        print(
            f"{nodes} nodes with {workers} workers each: ready after {all_.ready_s:.2f} s; processor time each: {parts}"
        )
        measure_in_turns([one, all_], ways, rounds=5)
        for name in ways:
            few, many = one.per_call_s[name], all_.per_call_s[name]
            print(
                f"{name:>12}: {many * 1e6:.2f} us of processor time a call, {many / few:.2f} times those with one worker"
            )
        rate, used = max((burst_rate(all_.executor) for _ in range(5)), key=lambda one: one[0])
        print(f"{'':>12}  {rate:.0f} calls/s; processor time a call: {in_us(used)}")
    with simulated(nodes, workers, 1.0, latency_s) as all_:
        measure_efficiency(all_.executor, count, 1.0)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("workers", metavar="WORKERS", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--nodes", type=int, default=0, help="simulate so many nodes")
    parser.add_argument("--workers-per-node", type=int, default=100, help="default: 100")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="of the simulated network, one way")
    options = parser.parse_args(words)
    if options.nodes:
        simulate(options.nodes, options.workers_per_node, options.latency)
        return
    with ExitStack() as stack:
        measured = [stack.enter_context(started(count)) for count in options.workers]
        print(f"all {sum(options.workers)} workers and this process, idle: {cores_used(2.0):.4f} of a core")
        measure_in_turns(measured, WAYS)
        start = time.monotonic()
    print(f"the end of all: {time.monotonic() - start:.2f} s")
    print(f"{'workers':>8}{'ready':>10}{'start, each':>13}" + "".join(f"{name:>18}" for name in WAYS))
    for one in measured:
        costs = (f"{one.per_call_s[name] * 1e6:15.2f} us" for name in WAYS)
        print(f"{one.workers:8}{one.ready_s:8.2f} s{one.start_s / one.workers * 1e3:10.2f} ms" + "".join(costs))


if __name__ == "__main__":
    main()
