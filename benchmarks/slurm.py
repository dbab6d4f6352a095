"""Workers that SLURM starts on this host, beside those of backend "mpi": python -m benchmarks.slurm [--rounds N]

Runs where srun can start steps on this very host: inside an allocation, or with `--start` in a SLURM that the tests' script
starts (as root, on Debian or Ubuntu). What must hold, in the medians of one run: a no-op round trip (p50) within `FACTOR`
times of the local one. The exit code says whether it does.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import limits
from benchmarks.cases import CASES, show_seconds
from benchmarks.peers import Peer, Request, StandardPool, find_peer
from benchmarks.rounds import Effort, compare

FACTOR = 1.5
SCRIPTS = limits.ROOT / "tests" / "slurm"


def make_under_slurm(request: Request) -> StandardPool:
    from pympipool import Executor

    here = [f"--nodelist={socket.gethostname().split('.')[0]}"]
    return StandardPool(
        Executor(max_cores=request.workers, block_allocation=True, backend="slurm", command_line_argument_lst=here)
    )


UNDER_SLURM = Peer("pympipool under SLURM", "", make_under_slurm)  # no package: it is used as it lies here
LOCAL = find_peer("pympipool")


@contextmanager
def started() -> Iterator[None]:
    """A SLURM of one host, and an allocation in it."""
    with tempfile.TemporaryDirectory(prefix="pympipool-slurm-") as folder:
        subprocess.run([SCRIPTS / "start-slurm", folder], check=True, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
        try:
            said = subprocess.run(["salloc", "--no-shell"], check=True, capture_output=True, text=True).stderr
            os.environ["SLURM_JOB_ID"] = said.split("Granted job allocation")[1].split()[0]
            yield
        finally:
            subprocess.run([SCRIPTS / "stop-slurm", folder], check=False)


def measure(effort: Effort) -> None:
    case = next(case for case in CASES if case.title == "no-op call")
    comparison = compare(case, effort, (UNDER_SLURM, LOCAL))
    if comparison.absent:
        raise SystemExit("; ".join(f"{peer}: {reason}" for peer, reason in comparison.absent.items()))
    under_slurm, local = (comparison.median(peer.name) for peer in (UNDER_SLURM, LOCAL))
    factor = under_slurm / local
    print(
        f"{case.title}, p50: {show_seconds(under_slurm)}, local {show_seconds(local)}: {factor:.2f} times, wanted {FACTOR}"
    )
    if factor > FACTOR:
        sys.exit("missed")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--start", action="store_true", help="start a SLURM for it")
    options = parser.parse_args(words)
    # Workers of both find the functions they are asked to run.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    effort = Effort(rounds=options.rounds)
    if not options.start:
        measure(effort)
        return
    with started():
        measure(effort)


if __name__ == "__main__":
    main()
