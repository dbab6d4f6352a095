"""Compare workers that SLURM starts on this host with those of backend "mpi": python -m benchmarks.slurm [--rounds N]

It needs an srun that can start steps on this host: run it inside an allocation, or with `--start`, which starts a SLURM
with the script of the tests (as root, on Debian or Ubuntu). The median of a no-op round trip must be at most `FACTOR`
times the local one in the same run. Otherwise the exit code is 1.

With `--per-call` it runs calls with a process each on all hosts of the allocation, two with `--start`, and counts those that end
in a second, in turns with the same on this host without SLURM. There must be at least `CALLS_PER_S`, in the best round.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter

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
def started_slurm(hosts: int) -> Iterator[None]:
    """Start a SLURM and an allocation of all of its hosts, and stop it at the end of the context."""
    os.environ["SLURM_TEST_NODES"] = str(hosts)
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


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--start", action="store_true", help="start a SLURM for this run")
    parser.add_argument("--per-call", action="store_true", help="count calls with a process each")
    options = parser.parse_args(words)
    add_repository_to_pythonpath()
    with started_slurm(2 if options.per_call else 1) if options.start else nullcontext():
        (measure_per_call if options.per_call else measure)(options.rounds)


if __name__ == "__main__":
    main()
