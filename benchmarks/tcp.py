"""Compare workers behind the TCP transport, over loopback, with executorlib: python -m benchmarks.tcp [--rounds N]

`WANTED` lists the ratios that the medians of one run must reach. If one is missed, the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import limits
from benchmarks.pairs import add_repository_to_pythonpath, call_time, compare, echo_of_8_mb, round_trip
from benchmarks.peers import Peer, Request, find_peer
from benchmarks.pools import StandardPool

WANTED = {
    "no-op calls, many at once": (call_time, 3.0),
    "no-op round trip": (round_trip, 3.0),
    "8 MB round trip": (echo_of_8_mb, 1.0),
}
"""How many times faster pympipool must be than executorlib with its defaults, which allow futures as arguments."""


def make_over_tcp(request: Request) -> StandardPool:
    """Create a pympipool executor whose workers use TCP, as if they were on another host."""
    sys.path.append(str(limits.ROOT / "tests"))
    from pympipool import Executor
    from pympipool.backends.registry import BACKENDS
    from support.loopback_tcp import LoopbackTcpBackend

    BACKENDS["tcp"] = LoopbackTcpBackend
    return StandardPool(Executor(max_workers=request.workers, block_allocation=True, backend="tcp"))


OVER_TCP = Peer("pympipool over tcp", "", make_over_tcp)  # no package: it needs no installation


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tcp", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    rounds = parser.parse_args(words).rounds
    add_repository_to_pythonpath()
    executorlib = find_peer("executorlib")
    missed = [
        f"{title} ({factor:.2f} of {wanted:g} times)"
        for title, (sample, wanted) in WANTED.items()
        if (factor := compare(title, sample, OVER_TCP, executorlib, rounds)) < wanted
    ]
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
