"""A chaos test: random calls on executors whose processes, limits and signals suffer blows.

    python -m tests.chaos --seconds 900

A script of its own, with limits, submits calls of all kinds from four threads, and makes and closes executors in all
ways. Meanwhile processes get SIGKILL, SIGSTOP and SIGCONT (workers, ranks, fork servers, mpiexec and its proxies, the
relay), the script gets Ctrl-C and is suspended, descriptors and memory are short for some seconds, and nobody reads
what it prints. Every call must end, and end right; no executor may break; nothing may stay behind, and the script's memory,
descriptors and threads may not grow. The same seed gives the same blows in the same order.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.board import THREADS
from chaos.guardian import Options, Verdict, chaos
from chaos.plan import WEIGHTS


def main() -> int:
    """Run the test from the command line. The exit code is 0 if all guarantees were kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--pause", type=float, default=0.3, help="mean time between two blows, s")
    parser.add_argument("--call-pause", type=float, default=0.0, help="mean pause of a thread between two calls, s")
    parser.add_argument("--over-tcp", action="store_true", help="let workers use the relay, as if on another host")
    parser.add_argument("--no-mpi", action="store_true", help="without workers of two ranks")
    parser.add_argument("--no-nasty", action="store_true", help="without unpleasant objects and rounds")
    parser.add_argument(
        "--blows", default=",".join(WEIGHTS), help="kinds of blows, default: %(default)s; none: no blows"
    )
    parser.add_argument("--threads", default=",".join(THREADS), help="threads of the script, default: %(default)s")
    parser.add_argument("--csv", type=Path, help="file for memory, descriptors and threads once a second")
    parser.add_argument("--stderr", type=Path, help="file for everything that the script writes to stderr")
    arguments = parser.parse_args()
    options = Options(
        seconds=arguments.seconds,
        seed=arguments.seed,
        pause_s=arguments.pause,
        call_pause_s=arguments.call_pause,
        mpi=not arguments.no_mpi,
        over_tcp=arguments.over_tcp,
        nasty=not arguments.no_nasty,
        kinds=[kind for kind in WEIGHTS if kind in arguments.blows.split(",")],
        threads=[thread for thread in THREADS if thread in arguments.threads.split(",")],
    )
    verdict = chaos(options)
    if arguments.stderr:
        arguments.stderr.write_text(verdict.stderr)
    if arguments.csv:
        verdict.record.write(arguments.csv)
    print_report(options, verdict)
    return int(bool(verdict.complaints))


def print_report(options: Options, verdict: Verdict) -> None:
    """Print counters, curves and complaints."""
    report = {
        "seed": options.seed,
        "seconds": verdict.seconds,
        "ended": dict(sorted(verdict.counts.items())),
        "blows": dict(sorted(verdict.dealt.items())),
        "complaints": len(verdict.complaints),
        "complaints of the script, repeated ones too": verdict.all_complaints,
    }
    print(json.dumps(report, indent=2))
    print(verdict.record.curves())
    creep_mb = verdict.record.creep_mb()
    if creep_mb is not None:
        print(f"the floor of the heap has risen by {creep_mb:.1f} MB since the warm-up")
    for complaint in verdict.complaints:
        print(complaint)
    if verdict.complaints:
        print(f"the last lines of stderr:\n{verdict.stderr[-12000:]}")


if __name__ == "__main__":
    sys.exit(main())
