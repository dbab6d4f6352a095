"""Workers behind the link tcp, over this machine's loopback, beside executorlib: python -m benchmarks.tcp [--rounds N]

What must hold, in the medians of one run: at least `RATE_FACTOR` times executorlib's rate of no-op calls (as it is by
default, with futures as arguments), and at least its speed with 8 MB there and back. The exit code says whether it does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks import limits
from benchmarks.cases import CASES, Case
from benchmarks.peers import Peer, Request, StandardPool, find_peer
from benchmarks.rounds import Effort, compare

RATE_FACTOR = 3.0
"""How many times executorlib's rate ours must be."""

WANTED = {"submit, 1 worker": RATE_FACTOR, "8 MB of float64": 1.0, "no-op call": 1.0}
"""Titles of the cases, and how many times better than executorlib ours must be there."""


def make_over_tcp(request: Request) -> StandardPool:
    """Ours, with workers that do not know that they are on the master's host."""
    sys.path.append(str(limits.ROOT / "tests"))
    from links.over_tcp import ThisMachineOverTcp
    from pympipool import Executor
    from pympipool.backends import BACKENDS

    BACKENDS["tcp"] = ThisMachineOverTcp
    return StandardPool(Executor(max_workers=request.workers, block_allocation=request.block, backend="tcp"))


OVER_TCP = Peer("pympipool over tcp", "", make_over_tcp)  # no package: it is used as it lies here
EXECUTORLIB = find_peer("executorlib")


def times_better(case: Case, effort: Effort) -> tuple[float, float, float]:
    """How many times better ours is, and both medians."""
    comparison = compare(case, effort, (OVER_TCP, EXECUTORLIB))
    if comparison.absent:
        raise SystemExit("; ".join(f"{peer}: {reason}" for peer, reason in comparison.absent.items()))
    ours, theirs = (comparison.median(peer.name) for peer in (OVER_TCP, EXECUTORLIB))
    return (ours / theirs if case.quantities[0].unit.higher_is_better else theirs / ours), ours, theirs


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tcp", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each case; default: 5")
    effort = Effort(rounds=parser.parse_args(words).rounds)
    # Workers of both find the functions they are asked to run.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    missed = []
    for case in CASES:
        if case.title not in WANTED:
            continue
        factor, ours, theirs = times_better(case, effort)
        show, wanted = case.quantities[0].unit.text, WANTED[case.title]
        print(
            f"{case.section}, {case.title}: pympipool over tcp {show(ours)}, executorlib {show(theirs)}:"
            f" {factor:.2f} times better, wanted {wanted:g}",
            flush=True,
        )
        if factor < wanted:
            missed.append(case.title)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
