"""Compare workers that SLURM starts on this host with those of backend "mpi": python -m benchmarks.slurm [--rounds N]

It needs an srun that can start steps on this host: run it inside an allocation, or with `--start`, which starts a SLURM
with the script of the tests (as root, on Debian or Ubuntu). The median of a no-op round trip must be at most `FACTOR`
times the local one in the same run. Otherwise the exit code is 1.

With `--per-call` it runs calls with a process each on all hosts of the allocation, two with `--start`, and counts those that end
in a second, in turns with the same on this host without SLURM. There must be at least `CALLS_PER_S`, in the best round.

With `--starts` it starts `WORKERS` workers on all hosts, by agents and by an srun for each in turns. Agents must be `TIMES_FASTER`
times faster, in the best round of each, with at most `SRUNS_MAX` processes of srun. Modules are compiled once, as in an
installation: in a checkout without bytecode, each interpreter would compile them again.
"""

from __future__ import annotations

import argparse
import compileall
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from time import perf_counter, sleep

import psutil

from benchmarks import limits
from benchmarks.pairs import add_repository_to_pythonpath, compare, round_trip
from benchmarks.peers import Peer, Request
from benchmarks.pools import StandardPool

FACTOR = 1.5
"""Largest allowed ratio of the time under SLURM to the local time."""

CALLS_PER_S = 100
"""Smallest allowed number of calls in a second with a process for each call."""

CALLS = 300
"""Number of calls with a process each in a round."""

CORES = 16
"""Number of such calls at a time: with `--start` each of the two hosts pretends to have 8 cores."""

WORKERS = 64
"""Number of workers that `--starts` starts."""

TIMES_FASTER = 10
"""Smallest allowed ratio of the time of an srun for each worker to that of agents."""

SRUNS_MAX = 2
"""Largest allowed number of processes of srun with agents."""

START_LIMIT_S = 120.0
"""Seconds that the start of all workers may take."""

SCRIPTS = limits.ROOT / "tests" / "slurm"


def make_local(request: Request) -> StandardPool:
    from pympipool import Executor

    return StandardPool(Executor(max_workers=request.workers, block_allocation=True, backend="mpi"))


def make_under_slurm(request: Request) -> StandardPool:
    from pympipool import Executor

    here = [f"--nodelist={socket.gethostname().split('.')[0]}"]
    return StandardPool(
        Executor(max_cores=request.workers, block_allocation=True, backend="slurm", command_line_argument_lst=here)
    )


UNDER_SLURM = Peer("pympipool under SLURM", "", make_under_slurm)  # no package: it needs no installation
LOCAL = Peer("local workers", "", make_local)


@contextmanager
def started_slurm(hosts: int, cores: int) -> Iterator[None]:
    """Start a SLURM and an allocation of all of its hosts, and stop it at the end of the context."""
    os.environ["SLURM_TEST_NODES"], os.environ["SLURM_TEST_CPUS"] = str(hosts), str(cores)
    with tempfile.TemporaryDirectory(prefix="pympipool-slurm-") as folder:
        try:
            if (
                subprocess.run([SCRIPTS / "start-slurm", folder], check=False, stdout=subprocess.DEVNULL).returncode
                != 0
            ):
                sys.exit("SLURM could not be started: see the messages above")
            os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
            output = subprocess.run(
                ["salloc", "--no-shell", f"--nodes={hosts}", "--exclusive"], check=True, capture_output=True, text=True
            ).stderr
            os.environ["SLURM_JOB_ID"] = output.split("Granted job allocation")[1].split()[0]
            os.environ["SLURM_JOB_NUM_NODES"] = str(hosts)  # as in a script of sbatch
            yield
        finally:
            subprocess.run([SCRIPTS / "stop-slurm", folder], check=False)


def measure(rounds: int) -> None:
    factor = 1 / compare("no-op round trip", round_trip, UNDER_SLURM, LOCAL, rounds)
    if factor > FACTOR:
        sys.exit(f"missed: {factor:.2f} times the local time, wanted at most {FACTOR}")


def host(_: int) -> str:
    return socket.gethostname()


def measure_per_call(rounds: int) -> None:
    from pympipool import Executor

    best = 0.0
    with Executor(max_cores=CORES, backend="slurm") as slurm, Executor(max_cores=CORES, backend="mpi") as local:
        for exe in (slurm, local):
            list(exe.map(host, range(CORES)))  # agents and fork server start meanwhile
        for _ in range(rounds):
            rates = []
            for exe in (slurm, local):
                begin = perf_counter()
                hosts = Counter(exe.map(host, range(CALLS)))
                rates.append(CALLS / (perf_counter() - begin))
                if exe is slurm:
                    print(f"calls of {len(hosts)} hosts", end="; ")
            print(f"{rates[0]:.0f} calls/s, local {rates[1]:.0f}; load {os.getloadavg()[0]:.1f}", flush=True)
            best = max(best, rates[0])
    if best < CALLS_PER_S:
        sys.exit(f"missed: {best:.0f} calls/s, wanted at least {CALLS_PER_S}")


def start(method: str) -> tuple[float, int]:
    """Return the seconds until all workers are ready, and how many processes of srun there are then."""
    from pympipool import Executor

    begin = perf_counter()
    context = get_context(method)
    with Executor(max_cores=WORKERS, block_allocation=True, backend="slurm", mp_context=context) as executor:
        while len(executor.info["workers"]) < WORKERS:
            if perf_counter() - begin > START_LIMIT_S:
                sys.exit(f"after {START_LIMIT_S:g} s, {len(executor.info['workers'])} of {WORKERS} workers are ready")
            sleep(0.005)
        elapsed_s = perf_counter() - begin
        return elapsed_s, sum(process.name() == "srun" for process in psutil.Process().children(recursive=True))


def measure_starts(rounds: int) -> None:
    agents_s, sruns_s, most_sruns = float("inf"), float("inf"), 0
    start("fork")  # the first one imports here what others find
    for _ in range(rounds):
        elapsed_s, sruns = start("fork")
        agents_s, most_sruns = min(agents_s, elapsed_s), max(most_sruns, sruns)
        other_s, others = start("spawn")
        sruns_s = min(sruns_s, other_s)
        print(
            f"{WORKERS} workers: by agents {elapsed_s:.2f} s, {sruns} processes of srun; by srun each {other_s:.2f} s,"
            f" {others} processes; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    print(f"by agents {sruns_s / agents_s:.1f} times faster")
    if sruns_s / agents_s < TIMES_FASTER or most_sruns > SRUNS_MAX:
        sys.exit(f"missed: wanted {TIMES_FASTER} times, and at most {SRUNS_MAX} processes of srun")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--start", action="store_true", help="start a SLURM for this run")
    parser.add_argument("--per-call", action="store_true", help="count calls with a process each")
    parser.add_argument("--starts", action="store_true", help=f"measure the start of {WORKERS} workers")
    options = parser.parse_args(words)
    add_repository_to_pythonpath()
    if options.starts:  # also where this interpreter, and so those that it starts, may write none
        compileall.compile_dir(limits.ROOT / "pympipool", quiet=1)
    hosts, cores = (2, WORKERS // 2) if options.starts else (2, 8) if options.per_call else (1, 8)
    with started_slurm(hosts, cores) if options.start else nullcontext():
        (measure_starts if options.starts else measure_per_call if options.per_call else measure)(options.rounds)


if __name__ == "__main__":
    main()
