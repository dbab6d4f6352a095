"""Compare workers that SLURM starts on this host with those of backend "mpi": python -m benchmarks.slurm [--rounds N]

It needs an srun that can start steps on this host: run it inside an allocation, or with `--start`, which starts a SLURM
with the script of the tests (as root, on Debian or Ubuntu). The median of a no-op round trip must be at most `FACTOR`
times the local one in the same run. Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from benchmarks import limits
from benchmarks.pairs import add_repository_to_pythonpath, compare, round_trip
from benchmarks.peers import Peer, Request
from benchmarks.pools import StandardPool

FACTOR = 1.5
"""Largest allowed ratio of the time under SLURM to the local time."""

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
def started_slurm() -> Iterator[None]:
    """Start a SLURM of one host and an allocation in it, and stop it at the end of the context."""
    with tempfile.TemporaryDirectory(prefix="pympipool-slurm-") as folder:
        try:
            if (
                subprocess.run([SCRIPTS / "start-slurm", folder], check=False, stdout=subprocess.DEVNULL).returncode
                != 0
            ):
                sys.exit("SLURM could not be started: see the messages above")
            os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
            output = subprocess.run(["salloc", "--no-shell"], check=True, capture_output=True, text=True).stderr
            os.environ["SLURM_JOB_ID"] = output.split("Granted job allocation")[1].split()[0]
            yield
        finally:
            subprocess.run([SCRIPTS / "stop-slurm", folder], check=False)


def measure(rounds: int) -> None:
    factor = 1 / compare("no-op round trip", round_trip, UNDER_SLURM, LOCAL, rounds)
    if factor > FACTOR:
        sys.exit(f"missed: {factor:.2f} times the local time, wanted at most {FACTOR}")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--start", action="store_true", help="start a SLURM for this run")
    options = parser.parse_args(words)
    add_repository_to_pythonpath()
    with started_slurm() if options.start else nullcontext():
        measure(options.rounds)


if __name__ == "__main__":
    main()
